/* SPDX-License-Identifier: MIT */
/* A memory cgroup of the test's own, version 2 or 1, for one broker. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct test_cgroup {
        char path[160];
        const char *current, *max; /* names of its files */
};

/* Skips the test, with the reason, where none can be made. */
void test_cgroup_make(struct test_cgroup *ret);
/* What it installs from now on is charged here. */
void test_cgroup_enter(const struct test_cgroup *cgroup, pid_t pid);
uint64_t test_cgroup_current(const struct test_cgroup *cgroup);
/* In RAM: what is over it may not be swapped out instead. */
void test_cgroup_set_max(const struct test_cgroup *cgroup, uint64_t bytes);
/* Nobody may be in it any more. */
void test_cgroup_remove(const struct test_cgroup *cgroup);
