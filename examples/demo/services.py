# SPDX-License-Identifier: MIT
"""The processes beside QEMU: the page broker, our disk device, and the stock disk device of the ordinary restore."""

import json
import os
import socket
import subprocess
import time

from machine import MachineError, stop_process

START_TIMEOUT_S = 20


def _last_lines(path):
    with open(path, errors="replace") as file:
        return " / ".join([line.strip() for line in file if line.strip()][-3:]) or f"no message in {path}"


class Service:
    """A child with its log file; a context manager, so that nothing stays behind."""

    def __init__(self, name, command, log, user=None, env=None, pass_fds=()):
        self.name, self.log = name, log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", pass_fds=pass_fds,
                env={**os.environ, **(env or {})}, **(user.options() if user else {}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop_process(self.process)

    def check(self):
        if self.process.poll() is not None:
            raise MachineError(f"{self.name} ended early: {_last_lines(self.log)}")

    def wait_for(self, is_ready):
        """Waits until is_ready() says so. Asking every few milliseconds is all that a stranger's program allows."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise MachineError(f"{self.name} was not ready within {START_TIMEOUT_S} s: {_last_lines(self.log)}")
            time.sleep(0.002)


class Broker(Service):
    """pagebrokerd with one memory. `source` None: all zero."""

    def __init__(self, setup, name, source=None, fill=True):
        self.setup = setup
        self.socket = os.path.join(setup.folder, f"{name}.socket")
        memory = f"--memory=ram,size={setup.memory_mib}M" + (f",source=file:{source}" if source else "")
        command = [setup.programs["pagebrokerd"], f"--name=demo-{name}", f"--socket={self.socket}", memory,
                   f"--fill={'on' if fill else 'off'}"]
        if setup.user.uid is not None:
            command += [f"--allow={role}:{setup.user.uid}" for role in ("vmm", "device", "observer")]
        notify_path = os.path.join(setup.folder, f"{name}.notify")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        notify.bind(notify_path)
        try:
            super().__init__("pagebrokerd", command, os.path.join(setup.folder, f"{name}.pagebrokerd.log"),
                             env={"NOTIFY_SOCKET": notify_path})
            try:
                self.wait_for(lambda: self._is_notified(notify))
            except BaseException:  # an interrupt too
                stop_process(self.process)
                raise
        finally:
            notify.close()
            os.unlink(notify_path)

    @staticmethod
    def _is_notified(notify):
        try:
            return b"READY=1" in notify.recv(4096)
        except BlockingIOError:
            return False

    def _control_options(self):
        return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                "env": {**os.environ, **self.setup.library_env}, **self.setup.user.options()}

    def _control_command(self, *arguments):
        return [self.setup.programs["pagebrokerctl"], f"--socket={self.socket}", *arguments]

    def _control(self, *arguments):
        done = subprocess.run(self._control_command(*arguments), timeout=START_TIMEOUT_S, **self._control_options())
        if done.returncode != 0:
            self.check()
            raise MachineError(f"pagebrokerctl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def status(self):
        return json.loads(self._control("status", "--json"))

    def start_fill(self):
        self._control("fill", "on")

    def wait_until_complete(self, on_progress):
        """Calls on_progress(status) twice a second. Returns when the last page had come."""
        next_report = time.monotonic() + 0.5
        with subprocess.Popen(self._control_command("watch", "--json", "--interval=0.01"),
                              **self._control_options()) as watch:
            try:
                for line in watch.stdout:
                    status, now = json.loads(line), time.monotonic()
                    if status["complete"]:
                        return now
                    if status["pages_poisoned"]:
                        raise MachineError(f"{status['pages_poisoned']} pages could not be read; see {self.log}")
                    if now >= next_report:
                        on_progress(status)
                        next_report = now + 0.5
            finally:
                stop_process(watch)
        self.check()
        raise MachineError("pagebrokerctl watch ended before everything was there")

    def run_prefix(self):
        """What goes in front of an unmodified VMM's command line."""
        return [self.setup.programs["pagebroker-run"], f"--preload={self.setup.programs['libpagebroker-preload.so']}",
                f"--socket={self.socket}", "--role=vmm", "--"]

    def disk(self, disk_path):
        """Our vhost-user disk, linked with libpagebroker."""
        path = os.path.join(self.setup.run_folder, "disk.socket")
        command = [self.setup.programs["vhost-user-blk"], f"--socket={path}",
                   f"--pagebroker={self.socket}", f"--file={disk_path}"]
        return Disk("the vhost-user-blk device", command, path, self.log.replace("pagebrokerd", "disk"), self.setup)


class Disk(Service):
    def __init__(self, name, command, path, log, setup):
        self.path = path
        if os.path.exists(path):
            os.unlink(path)
        super().__init__(name, command, log, user=setup.user, env=setup.library_env)
        try:
            self.wait_for(lambda: os.path.exists(path))
        except BaseException:  # an interrupt too
            stop_process(self.process)
            raise


def stock_disk(setup, disk_path):
    """QEMU's own vhost-user disk, which knows nothing of Pagebroker."""
    path = os.path.join(setup.run_folder, "disk.socket")
    command = [setup.storage_daemon,
               "--blockdev", f"driver=file,node-name=disk,filename={disk_path}",
               "--export", f"type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={path}"]
    return Disk("qemu-storage-daemon", command, path, os.path.join(setup.folder, "storage-daemon.log"), setup)
