/* SPDX-License-Identifier: MIT */
/* Children that make one system call under the broker's own filter, enforced. */
#pragma once

#include <signal.h>

#include "tests/lib/test.h"

/* What a process that the filter killed looks like to test_child_wait(). */
#define PROBE_KILLED (128 + SIGSYS)

/* The filter could not be loaded. */
#define PROBE_NO_FILTER 77

/* Loads the broker's profile in a child, calls fn(arg) there and returns how the child ended: fn()'s value or
 * PROBE_KILLED. */
int probe(int (*fn)(void *arg), void *arg);

/* A test that the expression's call goes through: it is evaluated under the filter and must be true. */
#define PROBE_ALLOWED(behaviour, expression)                                                         \
        static int behaviour##_call(void *arg) {                                                     \
                return (expression) ? 0 : 1;                                                         \
        }                                                                                            \
        TEST(seccomp_allows, behaviour) {                                                            \
                int status = probe(behaviour##_call, NULL);                                          \
                cr_assert_neq(status, PROBE_KILLED, "the filter killed the child");                  \
                cr_assert_eq(status, 0, "the call failed (status %d)", status);                      \
        }

/* A test that the expression's call kills: the child must not come back from it. */
#define PROBE_DENIED(behaviour, expression)                                                          \
        static int behaviour##_call(void *arg) {                                                     \
                (void) (expression);                                                                 \
                return 0;                                                                            \
        }                                                                                            \
        TEST(seccomp_denies, behaviour) {                                                            \
                cr_assert_eq(probe(behaviour##_call, NULL), PROBE_KILLED, "the call was not stopped"); \
        }
