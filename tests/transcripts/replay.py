#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""replay.py [--record] [--sanitized] BUILD TRANSCRIPT: says what the client of the transcript said to a broker of this build, and
compares each answer with the recorded one. README.md tells the format. --record writes the answers into the file instead."""
import argparse
import difflib
import errno
import os
import socket
import subprocess
import sys
import tempfile

from layout import Layouts
from session import PAGE, Session, libc, page_bytes, touch, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 77


def error_name(number):
    return "-" + errno.errorcode[-number] if number < 0 else str(number)


def unfold(words):
    return dict(word.split("=", 1) for word in words)


def die_with_parent():
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


class Broker:
    def __init__(self, folder, options):
        self.folder, self.options, self.process = folder, options, None
        self.address = f"{folder}/socket"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f"{folder}/notify")
        self.notify.settimeout(60)

    def make_image(self, pages):
        with open(f"{self.folder}/image", "wb") as file:
            file.writelines(page_bytes(page) for page in range(pages))
        tool = f"{self.options.build}/client/checksum/pagebroker-checksum"
        subprocess.run([tool, "-q", "--block-size=4K", "-o", f"{self.folder}/sums", f"{self.folder}/image"], check=True)

    def damage(self, page):
        with open(f"{self.folder}/image", "r+b") as file:
            file.seek(page * PAGE)
            file.write(b"damaged!")

    def start(self, words):
        command = [f"{self.options.build}/examples/supervisor/supervisor", "--die-together", "--",
                   f"{self.options.build}/broker/pagebrokerd", "--name=vm", f"--socket={self.address}", "--bus=none",
                   "--heal-interval=0", "--read-around=4K", "--fault-around=4K",
                   "--source-retries=0"]
        command += ["--seccomp=off"] * self.options.sanitized
        command += [word.replace("@", self.folder + "/") for word in words]
        environment = {**os.environ, "NOTIFY_SOCKET": f"{self.folder}/notify"}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.wait_ready()

    def wait_ready(self):
        told = ""
        while "READY=1" not in told:
            told = self.notify.recv(1024).decode()
        self.pid = int(told.split("STATUS=broker ")[1].split(",")[0])

    def stop(self):
        if self.process:
            if os.getresuid()[2] == 0:
                os.setresuid(0, 0, 0)
            self.process.terminate()
            self.process.wait()


class Player:
    """Carries out the client's lines. $NAME in one stands for what an answer was bound to."""

    def __init__(self, broker, layouts, names):
        self.broker, self.layouts, self.names, self.session = broker, layouts, names, None

    def play(self, words):
        handler = getattr(self, "do_" + words[0].lower().replace("-", "_"), None)
        if handler:
            return handler(words[1:]) or []
        words = [words[0]] + [self.fill_in(word) for word in words[1:]]
        fields = unfold(words[1:])
        fds = [self.session.fds[name] for name in fields.pop("fds", "").split(",") if name]
        until = fields.pop("until", None)
        if words[0] == "HELLO":
            return self.session.hand_shake(fields, fds)
        if until:
            return self.call_until(words[0], fields, fds, unfold(until.replace(":", "=").split(",")))
        return self.session.call(words[0], fields, fds)

    def fill_in(self, word):
        name, equals, value = word.partition("=")
        return name + equals + self.names[value] if value.startswith("$") else word

    def call_until(self, name, fields, fds, wanted):
        def look():
            lines = self.session.call(name, dict(fields), fds)
            return lines if all(lines[0][1].get(field, "0") == value for field, value in wanted.items()) else None
        return wait_for(look)

    def do_image(self, words):
        self.broker.make_image(int(unfold(words)["pages"]))

    def do_damage(self, words):
        self.broker.damage(int(unfold(words)["page"]))

    def do_broker(self, words):
        self.broker.start(words)
        self.names["$broker"] = str(self.broker.pid)

    def do_user(self, words):
        """Whom the kernel says that the client is, until the next one."""
        user = int(unfold(words)["id"])
        os.setresuid(user, user, 0)

    def do_connect(self, _):
        fds = self.session.fds if self.session else {}
        self.session = Session(self.broker.address, self.layouts)
        self.session.fds = {f"old-{name}": fd for name, fd in fds.items()}

    def do_push(self, words):
        ranges = [dict(zip(("memory", "first_page", "n_pages", "intent"), word.split("=")[1].split(",")))
                  for word in words if word.startswith("range=")]
        fields = unfold(word for word in words if not word.startswith("range="))
        slot, wait = int(fields.pop("slot")), fields.pop("wait", "yes")
        self.session.push(slot, fields, ranges)
        return self.session.outcome(slot, error_name) if wait == "yes" else []

    def do_push_again(self, words):
        fields = unfold(words)
        slot = int(fields["slot"])
        self.session.sequences[slot] = int(fields["sequence"])
        self.session.announce(slot)
        return self.session.outcome(slot, error_name)

    def do_completion(self, words):
        return self.session.completion(int(unfold(words)["index"]))

    def numbers(self, words):
        return {name: int(value, 0) for name, value in unfold(words).items()}

    def do_closed(self, _):
        return self.session.closed()

    def do_pages(self, words):
        return self.session.pages(**self.numbers(words))

    def do_await(self, words):
        """Until all are present: what a prefetch or the fill brings."""
        wanted = self.numbers(words)
        pages = range(wanted["first"], wanted["first"] + wanted["count"])
        wait_for(lambda: all(self.session.bit(wanted["memory"], "present_offset", page) for page in pages))

    def do_store(self, words):
        self.session.store(**self.numbers(words))

    def do_userfaultfd(self, _):
        self.session.userfaultfd()

    def do_mapping(self, words):
        self.names["$mapping"] = self.session.mapping(**self.numbers(words))

    def do_touch(self, words):
        return touch(int(self.names["$mapping"]), int(unfold(words)["page"]))

    def do_kill(self, _):
        os.kill(self.broker.pid, 9)
        self.broker.wait_ready()
        self.names["$broker"] = str(self.broker.pid)
        return self.session.hangs_up()


def is_name(word, sign):
    return word is not None and word.startswith(sign)


def mask(expected, actual, layouts, names):
    """The answer as a line. What the expected line leaves open (*, $NAME, >$NAME) stays so if it fits."""
    kind, words = actual
    recorded = unfold(expected[1:]) if expected and expected[0] == kind else {}
    line = [kind]
    for name, value in words.items():
        wanted = recorded.get(name)
        struct = layouts.structs.get(kind)
        if is_name(wanted, "$") and names.setdefault(wanted, value) == value:
            value = wanted
        elif is_name(wanted, ">$") and int(value) > int(names[wanted[1:]]):
            names[wanted[1:]] = value
            value = wanted
        elif wanted == "*" or (wanted is None and ((struct and struct.varies(name)) or name in ("device", "inode"))):
            value = "*"
        line.append(f"{name}={value}")
    return "<   " + " ".join(line) if kind in ("fd", "MAP", "RING", "STATE") else "< " + " ".join(line)


def split(text):
    """Steps: the comments before a client's line, the line, and the answers recorded after it."""
    steps, before = [], []
    for line in text.splitlines():
        if line.startswith("<"):
            steps[-1][2].append(line)
        elif line.startswith(">"):
            steps.append((before, line, []))
            before = []
        else:
            before.append(line)
    return steps, before


def play(steps, player, layouts, names):
    has_device = os.path.exists("/dev/userfaultfd")
    for before, line, answers in steps:
        expected = [answer.split()[1:] for answer in answers]
        actual = player.play(line.split()[1:])
        if not has_device:
            expected = without_device(expected)
        now = [mask(expected[i] if i < len(expected) else None, answer, layouts, names) for i, answer in enumerate(actual)]
        yield before, line, answers if has_device else ["< " + " ".join(words) for words in expected], now


def without_device(expected):
    return [words for i, words in enumerate(expected)
            if words[0] != "UFFD_DEVICE" and not (i and expected[i - 1][0] == "UFFD_DEVICE" and words[0] == "fd")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--sanitized", action="store_true")
    parser.add_argument("build")
    parser.add_argument("transcript")
    options = parser.parse_args()
    layouts, names = Layouts(f"{HERE}/layouts.txt"), {}
    with open(options.transcript, encoding="utf-8") as file:
        text = file.read()
    steps, rest = split(text)
    if "> USER " in text and os.getuid() != 0:
        print("needs root")
        return SKIPPED
    if "> USERFAULTFD" in text and not os.path.exists("/dev/userfaultfd"):
        print("needs /dev/userfaultfd")
        return SKIPPED
    same, recorded = True, []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # another user's client reaches into it
        broker = Broker(folder, options)
        player = Player(broker, layouts, names)
        try:
            for before, line, answers, now in play(steps, player, layouts, names):
                recorded += before + [line] + now
                if now != answers:
                    same = False
                    print(f"{os.path.basename(options.transcript)}: after: {line}")
                    print("\n".join(difflib.unified_diff(answers, now, "recorded", "now", n=0, lineterm="")))
        finally:
            broker.stop()
    if options.record:
        with open(options.transcript, "w", encoding="utf-8") as file:
            file.write("\n".join(recorded + rest) + "\n")
    return 0 if same or options.record else 1


if __name__ == "__main__":
    sys.exit(main())
