/* SPDX-License-Identifier: MIT */
/*
 * A child of the test process that outlives it by a moment, however it ends, and cleans up behind it: kills the
 * processes it was told of and gives reserved huge pages back.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* Started by the others when needed; keeps one descriptor open in this process. */
void test_janitor_start(void);

/* SIGKILL for `pid` when this process ends. PR_SET_PDEATHSIG alone is forgotten when a process changes its uid. */
void test_janitor_watch(pid_t pid);

/*
 * Makes sure that `n` free huge pages of `size` bytes exist until this process ends. Waits until no other test
 * holds any. Returns how many there are: fewer than `n` if the kernel has no more, or a negative errno.
 */
int64_t test_janitor_reserve_hugepages(uint64_t size, uint64_t n);
