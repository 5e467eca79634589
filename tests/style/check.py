#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the tree promises about its own files: check.py ROOT CHECK. Prints each offence; exits 1 if there was one."""
import os
import re
import sys

# Folder: what its files may include of ours. docs/ARCHITECTURE.md says why.
MAY_INCLUDE = {
    "common": {"common"},
    "protocol": {"protocol", "common"},
    "seccomp": {"seccomp", "common"},
    "broker": {"broker", "seccomp", "protocol", "common"},
    "sources": {"sources", "seccomp", "protocol", "common"},
    "client": {"client", "protocol", "common"},
    "examples": {"examples", "client", "seccomp", "protocol", "common"},
    "tests": {"tests", "examples", "client", "broker", "seccomp", "protocol", "common"},
}
# Narrower than its folder: the tools are made of what every program has, so that they show what that is good for: the
# public header, and the layout of a file that pagebroker-workingset(5) describes.
NARROWER = {
    "client/ctl/": re.compile(r"(client/ctl/.*|client/pagebroker\.h|common/.*|protocol/working-set\.h)"),
}
# Roles and intents are numbers of the public header; the broker needs them and nothing else of the client.
EXCEPTIONS = {("broker", "client/pagebroker.h")}

LINES_MAX = 600
C_FILES = (".c", ".h")
SOURCES = C_FILES + (".S", ".cc", ".py", ".sh", ".pml", ".ld")
SKIPPED = re.compile(r"^(\.git|build.*|corpus|subprojects)$")


def is_script(path):
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def files(root, accept):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not SKIPPED.match(name))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.islink(path) and accept(path):
                yield os.path.relpath(path, root), path


def lines(path):
    with open(path, encoding="utf-8") as file:
        return file.read().split("\n")


def is_c(path):
    return path.endswith(C_FILES)


def is_source(path):
    return path.endswith(SOURCES) or os.path.basename(path) in ("Makefile", "makefile") or is_script(path)


def check_include_direction(root):
    for name, path in files(root, is_c):
        folder = name.split("/")[0]
        for number, line in enumerate(lines(path), 1):
            match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not match:
                continue
            included, base = match[1], match[1].split("/")[0]
            if base == "..":
                yield f"{name}:{number}: name the file from the root: {included}"
            elif base not in MAY_INCLUDE or (folder, included) in EXCEPTIONS:
                continue  # a generated or a neighbour's file, a library's header
            elif base not in MAY_INCLUDE.get(folder, set()):
                yield f"{name}:{number}: {folder}/ may not include {included}"
            for prefix, allowed in NARROWER.items():
                if name.startswith(prefix) and not allowed.fullmatch(included):
                    yield f"{name}:{number}: {prefix} may not include {included}"


def check_licence(root):
    for name, path in files(root, is_source):
        if not any("SPDX-License-Identifier: MIT" in line for line in lines(path)[:2]):
            yield f"{name}: no 'SPDX-License-Identifier: MIT' at its top"


def check_file_size(root):
    for name, path in files(root, is_source):
        n = len(lines(path)) - 1
        if n > LINES_MAX:
            yield f"{name}: {n} lines; at most {LINES_MAX}"


def check_fences(root):
    # gcc refuses them under ThreadSanitizer, so one elsewhere is the end of `make tsan`, which runs seldom.
    for name, path in files(root, is_c):
        if name == "common/fence.h" or name.split("/")[0] not in ("broker", "client", "common", "protocol", "sources"):
            continue
        for number, line in enumerate(lines(path), 1):
            if re.search(r"\batomic_thread_fence\(|__atomic_thread_fence\(|__sync_synchronize\(", line):
                yield f"{name}:{number}: a fence of its own: see common/fence.h"


def check_nothing_postponed(root):
    # In two parts, so that this file passes.
    words = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|XX" + r"X)\b")
    for name, path in files(root, is_source):
        for number, line in enumerate(lines(path), 1):
            if words.search(line):
                yield f"{name}:{number}: {line.strip()}"


def check_white_space(root):
    for name, path in files(root, is_source):
        text = lines(path)
        for number, line in enumerate(text, 1):
            if line != line.rstrip():
                yield f"{name}:{number}: blank at the end of the line"
            if "\t" in line and is_c(path):
                yield f"{name}:{number}: a tab"
        if text[-1] != "":
            yield f"{name}: no newline at its end"


def main():
    root, check = sys.argv[1:]
    offences = list(globals()["check_" + check.replace("-", "_")](root))
    print(*offences, sep="\n")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
