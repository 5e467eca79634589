#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The collector: what it reads, what it refuses, and that no comment of the tree is left out. test-collect.py ROOT"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = sys.argv.pop(1)
COLLECT = os.path.join(ROOT, "seccomp", "collect")
GROUPS = {"broker", "nbd", "sanitize"}
FOLDERS = {"broker", "common", "seccomp", "sources"}


def collect(text, *groups):
    """Returns (exit status, rules or complaint)."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "a.c"), "w", encoding="ascii") as file:
            file.write(text)
        args = [COLLECT, "--list", "--profile", "p"] + [w for g in groups for w in ("--also", g)] + [folder]
        run = subprocess.run(args, capture_output=True, text=True, check=False)
    if run.returncode:
        return run.returncode, run.stderr
    return 0, [tuple(line.split("\t")[:3]) for line in run.stdout.splitlines()]


class Collector(unittest.TestCase):
    def test_calls_are_sorted_and_named_once(self):
        self.assertEqual(collect("/* #syscalls:p write read */ /* #syscalls:p read */"),
                         (0, [("read", "-", "-"), ("write", "-", "-")]))

    def test_alternatives_are_rules_of_their_own(self):
        self.assertEqual(collect("/* #syscalls:p futex:op=FUTEX_WAIT|FUTEX_WAKE */"),
                         (0, [("futex", "arg1=FUTEX_WAIT", "-"), ("futex", "arg1=FUTEX_WAKE", "-")]))

    def test_conditions_are_joined(self):
        self.assertEqual(collect("/* #syscalls:p mmap:prot!PROT_EXEC:flags&MAP_SHARED */"),
                         (0, [("mmap", "arg2!PROT_EXEC:arg3&MAP_SHARED", "-")]))

    def test_self_is_the_process(self):
        self.assertEqual(collect("/* #syscalls:p tgkill:self */"), (0, [("tgkill", "arg0=self", "-")]))

    def test_errno_instead_of_the_call(self):
        self.assertEqual(collect("/* #syscalls:p clone3->ENOSYS */"), (0, [("clone3", "-", "ENOSYS")]))

    def test_comment_of_several_lines(self):
        self.assertEqual(collect("/*\n * Reads.\n * #syscalls:p read\n *   pread64\n */")[1],
                         [("pread64", "-", "-"), ("read", "-", "-")])

    def test_list_ends_at_an_empty_line(self):
        self.assertEqual(collect("/*\n * #syscalls:p read\n *\n * And prose.\n */")[1], [("read", "-", "-")])

    def test_other_groups_are_left_out(self):
        self.assertEqual(collect("/* #syscalls:p read */ /* #syscalls:q write */")[1], [("read", "-", "-")])

    def test_group_that_is_asked_for_lifts_conditions(self):
        self.assertEqual(collect("/* #syscalls:p mmap:prot!PROT_EXEC */ /* #syscalls:q mmap */", "q")[1],
                         [("mmap", "-", "-")])

    def test_limited_and_unlimited_is_refused(self):
        status, text = collect("/* #syscalls:p mmap:prot!PROT_EXEC */ /* #syscalls:p mmap */")
        self.assertEqual(status, 1)
        self.assertIn("mmap is limited here, but not at", text)

    def test_unknown_argument_is_refused(self):
        self.assertEqual(collect("/* #syscalls:p read:colour=1 */")[0], 1)

    def test_two_conditions_on_one_argument_are_refused(self):
        self.assertEqual(collect("/* #syscalls:p mmap:prot!PROT_EXEC:prot&PROT_READ */")[0], 1)

    def test_mark_outside_of_a_comment_is_refused(self):
        self.assertEqual(collect("// #syscalls:p read\n")[0], 1)

    def test_mark_without_a_group_is_refused(self):
        self.assertEqual(collect("/* #syscalls read */")[0], 1)

    def test_unreadable_word_is_refused(self):
        status, text = collect("/* #syscalls:p read, write */")
        self.assertEqual(status, 1)
        self.assertIn("cannot read 'read,'", text)

    def test_nothing_found_is_refused(self):
        self.assertEqual(collect("int x;")[0], 1)

    def test_errors_name_file_and_line(self):
        self.assertIn("a.c:2:", collect("\n/* #syscalls:p read, */")[1])


class Tree(unittest.TestCase):
    def test_every_comment_is_collected(self):
        """In a folder that is not looked at, or in a group that no profile has, a list would be worth nothing."""
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [name for name in folders if not re.match(r"\.git|build", name)]
            for name in names:
                path = os.path.join(folder, name)
                if not name.endswith((".c", ".h")):
                    continue
                with open(path, encoding="utf-8") as file:
                    text = file.read()
                for group in re.findall(r"#syscalls:?([a-z0-9,-]*)", text):
                    self.assertIn(os.path.relpath(path, ROOT).split("/")[0], FOLDERS, path)
                    self.assertLessEqual(set(group.split(",")), GROUPS, path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
