/* SPDX-License-Identifier: MIT */
/* Child processes of a test, other processes' numbers, and waiting for what cannot be polled. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

/* How long a test waits for something that should come at once: long, for slow machines and sanitizers. Only a test that
 * fails ever waits so long. */
#define TEST_PATIENCE_US (120 * USEC_PER_SEC)

/*
 * Starts fn(arg) in a child; its return value is the child's exit status. `uid` (uid_t) -1: the same user. It dies
 * with this process. Criterion's assertions do not work there: use CHILD_CHECK().
 */
pid_t test_child_start(uid_t uid, int (*fn)(void *arg), void *arg);

/* Waits for the child. Returns its exit status, or 128 + the signal that killed it. Fails the test if it takes longer
 * than TEST_PATIENCE_US. */
int test_child_wait(pid_t pid);

/* start + wait. */
int test_run_as(uid_t uid, int (*fn)(void *arg), void *arg);

/* In a child: returns 1 from fn() with a line on standard error. */
#define CHILD_CHECK(condition)                                                                      \
        do {                                                                                        \
                if (!(condition)) {                                                                 \
                        fprintf(stderr, "%s:%d: child: %s (%m)\n", __FILE__, __LINE__, #condition); \
                        return 1;                                                                   \
                }                                                                                   \
        } while (0)

/* A field of /proc/PID/status in KiB: "RssAnon", "VmPTE", "VmRSS". -1 if it is not there. */
int64_t test_process_kib(pid_t pid, const char *field);

/* The letter of /proc/PID/task/TID/stat: 'S' asleep, 'D' uninterruptible, 'R', 'Z'. 0 if it is gone. */
char test_thread_state(pid_t pid, pid_t tid);

/* The number of the system call that a thread is in (SYS_futex_waitv...), -1 if in none: for tests that must know that
 * another thread has gone to sleep. */
long test_thread_syscall(pid_t pid, pid_t tid);

/*
 * Waits until `condition` is true, looking again and again: only for what no descriptor and no futex announces (a
 * counter in /proc, a thread having gone to sleep). Yields whether it came true in time.
 */
#define EVENTUALLY(condition)                                                              \
        ({                                                                                 \
                uint64_t _deadline = clock_now_us() + TEST_PATIENCE_US;                    \
                bool _true;                                                                \
                while (!(_true = (condition)) && clock_now_us() < _deadline)               \
                        (void) nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL); \
                _true;                                                                     \
        })
