# SPDX-License-Identifier: MIT
"""One QEMU with its serial console and its QMP connection."""

import collections
import json
import os
import queue
import socket
import subprocess
import threading
import time

QMP_TIMEOUT_S = 60


class MachineError(Exception):
    """QEMU or the guest did not do what the demo needs."""


class User:
    """The ordinary user that QEMU and the disk device run as: `None` means whoever runs the demo."""

    def __init__(self, uid=None, gid=None, groups=()):
        self.uid, self.gid, self.groups = uid, gid, list(groups)

    def options(self):
        """For subprocess.Popen()."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups}


def stop_process(process):
    """Ends a child that we started, at once if it does not go by itself."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Machine:
    """QEMU, started with `prefix` in front (pagebroker-run, or nothing). `memory_path` is what backs guest memory,
    `disk` a connected or connectable vhost-user socket path."""

    def __init__(self, setup, memory_path, disk, log, prefix=(), incoming=False, pass_fds=()):
        ours, theirs = socket.socketpair()
        ours.settimeout(QMP_TIMEOUT_S)
        self.qmp = ours.makefile("rwb", buffering=0)
        self.events = collections.deque()
        ours.close()
        self.lines = queue.Queue()
        command = list(prefix) + self._command(setup, memory_path, disk, theirs.fileno(), incoming)
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd="/",
                pass_fds=[theirs.fileno(), *pass_fds], **setup.user.options())
        theirs.close()
        self.log = log
        try:
            self._begin()
        except BaseException:  # an interrupt too: nobody has this object yet, to end QEMU
            stop_process(self.process)
            raise

    def _begin(self):
        threading.Thread(target=self._read_serial, daemon=True).start()
        self._qmp_receive()  # the greeting
        self.qmp_call("qmp_capabilities")
        # Shared memory stays out of the stream: it is the snapshot's other file.
        self.qmp_call("migrate-set-capabilities",
                      capabilities=[{"capability": name, "state": True} for name in ("x-ignore-shared", "events")])

    @staticmethod
    def _command(setup, memory_path, disk, qmp_fd, incoming):
        size = f"{setup.memory_mib}M"
        command = [
            setup.qemu, "-name", "pagebroker-demo", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,memory-backend=ram", "-accel", setup.accel, "-m", size,
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={memory_path},share=on",
            "-kernel", setup.kernel, "-initrd", setup.initramfs,
            "-append", f"console=ttyS0 quiet panic=-1 demo_mib={setup.fill_mib} demo_seed={setup.seed}",
            "-serial", "stdio", "-no-reboot", "-device", "virtio-balloon-pci,id=balloon",
            "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
        ]
        if setup.accel == "kvm":
            command += ["-cpu", "host"]
        if disk:
            command += ["-chardev", f"socket,id=disk,path={disk}",
                        "-device", "vhost-user-blk-pci,chardev=disk,num-queues=1"]
        if incoming:
            command += ["-incoming", "defer"]
        return command

    def _read_serial(self):
        for raw in self.process.stdout:
            self.lines.put((time.monotonic(), raw.decode(errors="replace").strip()))
        self.lines.put((time.monotonic(), None))

    def read_line(self, prefix, timeout_s):
        """Waits for a line of the guest that starts with `prefix`. Returns (when, line)."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                when, line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise MachineError(
                    f"the guest printed no line '{prefix}' within {timeout_s} s; see {self.log}") from None
            if line is None:
                raise MachineError(f"QEMU ended while the demo waited for '{prefix}': {self.last_words()}")
            if line.startswith("VERDICT guest FAILED"):
                raise MachineError(f"the guest says: {line}")
            if line.startswith(prefix):
                return when, line

    def write_line(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def last_words(self):
        with open(self.log, errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        return " / ".join(lines[-3:]) or f"no message in {self.log}"

    def _qmp_receive(self):
        try:
            line = self.qmp.readline()
        except TimeoutError:
            raise MachineError(f"QEMU did not answer within {QMP_TIMEOUT_S} s: {self.last_words()}") from None
        if not line:
            self.process.wait()
            raise MachineError(f"QEMU ended: {self.last_words()}")
        return json.loads(line)

    def qmp_call(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.qmp.write(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._qmp_receive()
            if "error" in answer:
                raise MachineError(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def _wait_for_migration(self, what):
        while True:
            message = self.events.popleft() if self.events else self._qmp_receive()
            if message.get("event") != "MIGRATION":
                continue
            status = message["data"]["status"]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise MachineError(f"QEMU could not {what} its state: {self.last_words()}")

    def save(self, state_path):
        """Stops the guest and writes everything but its memory. The path must hold no shell syntax: `exec:` is run by
        a shell."""
        self.qmp_call("stop")
        self.qmp_call("migrate", uri=f"exec:cat>{state_path}")
        self._wait_for_migration("save")

    def load(self, state_path):
        """Loads what save() wrote and lets the guest go on: it was saved stopped, so it comes back stopped."""
        self.qmp_call("migrate-incoming", uri=f"exec:cat {state_path}")
        self._wait_for_migration("load")
        self.qmp_call("cont")

    def ask_balloon(self, mib):
        """Asks the guest to give memory back, or to take it again, until it has `mib`."""
        self.qmp_call("balloon", value=mib << 20)

    def wait_for_balloon(self, mib):
        deadline = time.monotonic() + QMP_TIMEOUT_S
        while self.qmp_call("query-balloon")["actual"] != mib << 20:
            if time.monotonic() > deadline:
                raise MachineError(f"the guest's balloon did not come to {mib} MiB within {QMP_TIMEOUT_S} s")
            time.sleep(0.01)  # the event for it is sent once a second only

    def quit(self):
        try:
            self.qmp_call("quit")
        except (MachineError, OSError, ValueError):
            pass
        stop_process(self.process)
        self.qmp.close()


def kvm_reason(setup, log):
    """A sentence that says why KVM is not used here, or None if it can run this guest. A /dev/kvm that opens does not
    mean that Linux boots."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if not os.path.exists("/dev/kvm"):
        return "there is no KVM here (no /dev/kvm)"
    if "vmx" not in flags and "svm" not in flags:
        return "KVM is there but cannot run Linux: the processor offers neither vmx nor svm (/proc/cpuinfo)"
    probe = setup.replace(accel="kvm", fill_mib=1)
    memory = os.memfd_create("demo-probe")
    machine = None
    try:
        os.ftruncate(memory, probe.memory_mib << 20)
        machine = Machine(probe, f"/proc/self/fd/{memory}", None, log, pass_fds=[memory])
        # Without a disk the guest ends in words of its own, which is as good a sign of life as any.
        machine.read_line("", 10)
        return None
    except MachineError as error:
        return None if "the guest says" in str(error) else f"KVM is there but cannot run Linux: {error}"
    finally:
        os.close(memory)
        if machine:
            machine.quit()
