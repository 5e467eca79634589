# SPDX-License-Identifier: MIT
"""Making the snapshot, and the two ways back from it."""

import os
import shutil
import time
from contextlib import ExitStack

import memory
from machine import Machine, MachineError
from services import Broker, stock_disk

BOOT_TIMEOUT_S = 120
LINE_TIMEOUT_S = 60
VERDICTS = ("write", "disk", "memory")


class Snapshot:
    def __init__(self, setup):
        self.memory = os.path.join(setup.cache, "snapshot.memory")
        self.state = os.path.join(setup.run_folder, "snapshot.state")
        self.disk = os.path.join(setup.run_folder, "snapshot.disk")
        self.data_pages = 0


def _new_disk(setup, name, size=None, copy_of=None):
    """A disk file of the demo's user."""
    path = os.path.join(setup.run_folder, name)
    if copy_of:
        shutil.copyfile(copy_of, path)
    else:
        with open(path, "wb") as file:
            file.truncate(size)
    if setup.user.uid is not None:
        os.chown(path, setup.user.uid, setup.user.gid)
    return path


def _log(setup, name):
    return os.path.join(setup.folder, f"{name}.qemu.log")


def _start(stack, machine):
    stack.callback(machine.quit)
    return machine


def take_snapshot(setup, say):
    """Boots the guest with all memory there from the start, lets it fill its memory, and saves it."""
    snapshot = Snapshot(setup)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(setup, "boot"))
        snapshot.disk = _new_disk(setup, "snapshot.disk", size=setup.disk_mib << 20)
        disk = stack.enter_context(broker.disk(snapshot.disk))
        broker.wait_until_complete(lambda status: None)
        machine = _start(stack, Machine(setup, "{memory0}", disk.path, _log(setup, "boot"),
                                        prefix=broker.run_prefix()))
        _, line = machine.read_line("READY", BOOT_TIMEOUT_S)
        say(f"The guest has filled {setup.fill_mib} MiB: {line.lower()}")
        for _ in range(3):
            machine.read_line("COUNT", LINE_TIMEOUT_S)
        machine.save(snapshot.state)
        fd = memory.open_memfd_of(machine.process.pid, "pagebroker:", setup.memory_mib << 20)
        try:
            snapshot.data_pages = memory.copy_without_zeros(fd, snapshot.memory)
        except BaseException:  # an interrupt too: half a snapshot is of no use
            if os.path.exists(snapshot.memory):
                os.unlink(snapshot.memory)
            raise
        finally:
            os.close(fd)
    return snapshot


class Result:
    """What one restore gave. Times are seconds since its start; None: not applicable."""

    def __init__(self, name):
        self.name = name
        self.first_line_s = None
        self.all_present_s = None
        self.at_first_line = None  # the broker's counters
        self.at_end = None
        self.verdicts = {}
        self.balloon_mib = None  # given back and taken again while the fill ran

    def as_dict(self):
        return vars(self)


def _read_first_line(machine, result, start):
    when, line = machine.read_line("COUNT", LINE_TIMEOUT_S)
    if not line.endswith("ok"):
        raise MachineError(f"the guest's first line says that its disk is wrong: {line}")
    result.first_line_s = when - start


def _read_verdicts(machine, result):
    while len(result.verdicts) < len(VERDICTS):
        _, line = machine.read_line("VERDICT", LINE_TIMEOUT_S)
        part, verdict = line.split(maxsplit=2)[1:]
        result.verdicts[part] = verdict


def restore_by_copy(setup, snapshot, say):
    """The ordinary way: all of the memory first, then QEMU and qemu-storage-daemon, no Pagebroker anywhere."""
    result = Result("copy first")
    disk_path = _new_disk(setup, "copy.disk", copy_of=snapshot.disk)
    with ExitStack() as stack:
        start = time.monotonic()
        target = os.memfd_create("demo-memory")
        stack.callback(os.close, target)
        with open(snapshot.memory, "rb") as source:
            copied = memory.copy_sparse(source.fileno(), target)
        result.all_present_s = time.monotonic() - start
        say(f"{copied >> 20} MiB copied after {result.all_present_s:.2f} s; starting QEMU")
        disk = stack.enter_context(stock_disk(setup, disk_path))
        machine = _start(stack, Machine(setup, f"/proc/self/fd/{target}", disk.path, _log(setup, "copy"),
                                        incoming=True, pass_fds=[target]))
        machine.load(snapshot.state)
        _read_first_line(machine, result, start)
        say(f"First line from the guest after {result.first_line_s:.2f} s")
        machine.write_line("verify")
        _read_verdicts(machine, result)
    return result


def restore_lazily(setup, snapshot, say, name="lazy"):
    """pagebrokerd, our disk and QEMU under pagebroker-run start at once; memory comes when it is touched, and the rest
    behind it once the guest has said something."""
    result = Result(name)
    disk_path = _new_disk(setup, f"{name}.disk", copy_of=snapshot.disk)
    with ExitStack() as stack:
        start = time.monotonic()
        broker = stack.enter_context(Broker(setup, name, source=snapshot.memory, fill=False))
        disk = stack.enter_context(broker.disk(disk_path))
        machine = _start(stack, Machine(setup, "{memory0}", disk.path, _log(setup, name),
                                        prefix=broker.run_prefix(), incoming=True))
        machine.load(snapshot.state)
        _read_first_line(machine, result, start)
        result.at_first_line = broker.status()
        say(f"First line from the guest after {result.first_line_s:.2f} s, with "
            f"{result.at_first_line['pages_data_present']} of {result.at_first_line['pages_data']} data pages here; "
            "the fill starts now; the guest gives memory back, takes it again, and checks everything meanwhile")
        balloon_mib = (setup.memory_mib - setup.fill_mib) // 3  # of what is free in the guest
        machine.ask_balloon(setup.memory_mib - balloon_mib)
        broker.start_fill()
        machine.write_line("verify")
        machine.wait_for_balloon(setup.memory_mib - balloon_mib)
        machine.ask_balloon(setup.memory_mib)
        machine.wait_for_balloon(setup.memory_mib)
        result.balloon_mib = balloon_mib
        done = broker.wait_until_complete(lambda status: say(
            f"{status['pages_data_present'] * 100 // max(1, status['pages_data'])} % of the data pages here"))
        result.all_present_s = done - start
        say(f"Everything here after {result.all_present_s:.2f} s")
        _read_verdicts(machine, result)
        result.at_end = broker.status()
    return result
