# SPDX-License-Identifier: MIT
"""One connection as version 1 has it. Shares nothing with the product but layouts.txt. Each call returns the lines that
the broker's answers make."""
import array
import ctypes
import fcntl
import mmap
import os
import select
import socket
import stat
import sys
import time

PATIENCE = 120
PAGE = 4096
F_GET_SEALS = 1034
SEALS = ((1, "seal"), (2, "shrink"), (4, "grow"), (8, "write"), (16, "future_write"))
OUTCOME_TAKEN = 1
USERFAULTFD_IOC_NEW = 0xAA00

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


def page_bytes(page):
    """What the image holds: never zeros, another for every page."""
    return (page + 1).to_bytes(8, "little") * (PAGE // 8)


def page_name(data, page):
    if data == page_bytes(page):
        return "image"
    return "zero" if not any(data) else f"0x{data[0]:02x}" if data == data[:1] * PAGE else "other"


def describe_fd(fd):
    status, link = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
    access = ("ro", "wo", "rw")[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]
    if stat.S_ISSOCK(status.st_mode):
        kind = socket.socket(fileno=os.dup(fd)).type
        return {"kind": "socket", "type": kind.name}
    if stat.S_ISCHR(status.st_mode):
        return {"kind": link, "access": access}
    if stat.S_ISREG(status.st_mode):
        seals = fcntl.fcntl(fd, F_GET_SEALS)
        names = [name for bit, name in SEALS if seals & bit]
        return {"kind": "memfd", "access": "ro" if "future_write" in names else access, "seals": ",".join(names) or "none",
                "size": str(status.st_size), "device": str(status.st_dev), "inode": str(status.st_ino)}
    return {"kind": link.removeprefix("anon_inode:").strip("[]")}


class Session:
    def __init__(self, address, layouts):
        self.layouts, self.memories, self.fds, self.sequences = layouts, [], {}, {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)

    # ---- control socket ----

    def send(self, name, words, fds):
        data = self.layouts.structs[name].encode({"type": str(self.layouts.structs[name].number),
                                                  "bytes": str(self.layouts.structs[name].size), **words})
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([data], rights)
        except BrokenPipeError:
            pass  # the answer says it

    def receive(self):
        """Its name (None: hung up), and the lines that it makes."""
        data, fds = bytearray(), []
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 4096, 8)
        except ConnectionResetError:
            pass
        if not data:
            return None, [("HUNG-UP", {})]
        struct = self.layouts.messages.get(int.from_bytes(data[:4], sys.byteorder))
        if struct is None or len(data) != struct.size:
            return "?", [("BYTES", {"hex": data.hex()})]
        words = struct.decode(data)
        del words["type"], words["bytes"]
        lines = [(struct.name, words)] + [("fd", describe_fd(fd)) for fd in fds]
        return struct.name, lines + self.keep(struct.name, data, fds)

    def keep(self, name, data, fds):
        """What came is mapped where it is needed; the heads of the shared objects are answers like others."""
        if name == "MEMORY" and fds:
            writable = fcntl.fcntl(fds[0], fcntl.F_GETFL) & os.O_RDWR
            guest = mmap.mmap(fds[0], 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
            head = mmap.mmap(fds[1], 0, prot=mmap.PROT_READ)
            self.memories.append((guest, head))
            self.fds[f"memory{len(self.memories) - 1}"] = fds[0]
            return [self.head("MAP", head)]
        if name == "SESSION" and fds:
            self.ring = mmap.mmap(fds[0], 0)
            self.state = mmap.mmap(fds[1], 0, prot=mmap.PROT_READ)
            self.fds.update(ring=fds[0], doorbell=fds[2], completion=fds[3])
            return [self.head("RING", self.ring), self.head("STATE", self.state)]
        if name == "UFFD_DEVICE" and fds:
            self.fds["device"] = fds[0]
        return []

    def head(self, name, shared):
        return name, self.layouts.structs[name].decode(shared[:self.layouts.structs[name].size])

    def hand_shake(self, words, fds):
        self.send("HELLO", words, fds)
        lines, name = [], "HELLO"
        while name not in ("READY", None):
            name, more = self.receive()
            lines += more
        return lines

    def call(self, name, words, fds):
        self.send(name, words, fds)
        name, lines = self.receive()
        while name in ("MEMORY", "REGION", "LEAVING"):  # unasked, before the answer
            name, more = self.receive()
            lines += more
        return lines + (self.receive()[1] if name == "REFUSED" else [])

    # ---- ring ----

    def word(self, shared, offset, size):
        return int.from_bytes(shared[offset:offset + size], sys.byteorder)

    def push(self, slot, words, ranges):
        """One thread, one request at a time: stores in this order are enough, and the doorbell's system call orders them."""
        places, struct = self.layouts.places, self.layouts.structs
        at = places["ring.slots"] + slot * struct["SLOT"].size
        data = struct["SLOT"].encode({"n_ranges": str(len(ranges)), **words})
        for i, one in enumerate(ranges):
            start = places["slot.ranges"] + i * struct["RANGE"].size
            data[start:start + struct["RANGE"].size] = struct["RANGE"].encode(one)
        self.sequences[slot] = int(words["sequence"])
        self.ring[at:at + 4] = bytes(4)
        self.ring[at + 4:at + len(data)] = bytes(data[4:])
        self.ring[at:at + 4] = bytes(data[:4])
        self.announce(slot)

    def announce(self, slot):
        ready, summary = self.layouts.places["ring.ready"] + slot // 64 * 8, self.layouts.places["ring.summary"]
        self.ring[ready:ready + 8] = (self.word(self.ring, ready, 8) | 1 << slot % 64).to_bytes(8, sys.byteorder)
        self.ring[summary:summary + 4] = (self.word(self.ring, summary, 4) | 1 << slot // 64).to_bytes(4, sys.byteorder)
        self.event = self.word(self.state, self.layouts.places["state.event"], 4)
        os.write(self.fds["doorbell"], (1).to_bytes(8, sys.byteorder))

    def outcome(self, slot, name):
        """Waits for the final one, by looking: the shared words are all that is tested here."""
        at = self.layouts.places["state.outcome"] + slot * 8

        def look():
            value = self.word(self.state, at, 8)
            result = (value & 0xFFFFFFFF) - (value & 0x80000000) * 2
            return (result,) if value >> 32 == self.sequences[slot] and result != OUTCOME_TAKEN else None

        result = name(wait_for(look)[0])
        wait_for(lambda: self.word(self.state, self.layouts.places["state.event"], 4) != self.event)
        return [("OUTCOME", {"slot": str(slot), "sequence": str(self.sequences[slot]), "result": result})]

    def completion(self, index):
        """Drains the byte, then reads the entry."""
        if not select.select([self.fds["completion"]], [], [], PATIENCE)[0]:
            raise SystemExit("no byte on the completion socket")
        os.read(self.fds["completion"], 1)
        places = self.layouts.places
        wait_for(lambda: self.word(self.state, places["state.completion_tail"], 4) > index)
        slot = self.word(self.state, places["state.completions"] + index * 4, 4)
        return [("COMPLETION", {"index": str(index), "slot": str(slot)})]

    def closed(self):
        wait_for(lambda: self.word(self.state, self.layouts.places["state.closed"], 4))
        return [self.head("STATE", self.state)]

    # ---- memory ----

    def bit(self, memory, kind, page):
        head = self.memories[memory][1]
        offset = int(self.head("MAP", head)[1][kind])
        return self.word(head, offset + page // 32 * 4, 4) >> page % 32 & 1

    def pages(self, memory, first, count):
        """What is present is compared; what is absent is not touched."""
        found = {}
        for page in range(first, first + count):
            if self.bit(memory, "present_offset", page):
                found[f"page{page}"] = page_name(self.memories[memory][0][page * PAGE:(page + 1) * PAGE], page)
            else:
                found[f"page{page}"] = "poisoned" if self.bit(memory, "poison_offset", page) else "absent"
        return [("PAGES", found)]

    def store(self, memory, page, byte):
        self.memories[memory][0][page * PAGE:(page + 1) * PAGE] = bytes([byte]) * PAGE

    # ---- as a peer ----

    def userfaultfd(self):
        fd = fcntl.ioctl(self.fds["device"], USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
        self.fds["uffd"] = fd

    def mapping(self, memory):
        size = len(self.memories[memory][0])
        self.mapped = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.fds[f"memory{memory}"], 0)
        return str(self.mapped)

    def hangs_up(self):
        name = ""
        while name is not None:
            name, lines = self.receive()
        return lines


def touch(mapped, page):
    """A fault, if the page is absent."""
    return [("TOUCHED", {f"page{page}": page_name(ctypes.string_at(mapped + page * PAGE, PAGE), page)})]


def wait_for(look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.001)
    raise SystemExit("what the transcript waits for does not come")
