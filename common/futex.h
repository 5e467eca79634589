/* SPDX-License-Identifier: MIT */
/* The futex calls in use. All of them on shared mappings: never FUTEX_PRIVATE_FLAG. */
#pragma once

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Wakes every waiter of `word` whose mask meets `mask` (futex_waitv() waiters match any). Returns how many, or
 * a negative errno. */
static inline int futex_wake_bitset(const uint32_t *word, uint32_t mask) {
        long r = syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, mask);

        return r < 0 ? -errno : (int) r;
}

static inline int futex_wake_all(const uint32_t *word) {
        return futex_wake_bitset(word, FUTEX_BITSET_MATCH_ANY);
}

/* Sleeps while *a == a_value and *b == b_value, until `deadline` (absolute, CLOCK_MONOTONIC). Returns the index of
 * the woken word, -EAGAIN (a value differs), -ETIMEDOUT, -EINTR. futex_waitv() is in Linux since 5.16. */
static inline int futex_wait2(const uint32_t *a, uint32_t a_value, const uint32_t *b, uint32_t b_value,
                              const struct timespec *deadline) {
        struct futex_waitv waiters[2] = {
                { .val = a_value, .uaddr = (uintptr_t) a, .flags = FUTEX_32 },
                { .val = b_value, .uaddr = (uintptr_t) b, .flags = FUTEX_32 },
        };
        long r = syscall(SYS_futex_waitv, waiters, 2, 0, deadline, CLOCK_MONOTONIC);

        return r < 0 ? -errno : (int) r;
}

/* The same with a third word. */
static inline int futex_wait3(const uint32_t *a, uint32_t a_value, const uint32_t *b, uint32_t b_value,
                              const uint32_t *c, uint32_t c_value, const struct timespec *deadline) {
        struct futex_waitv waiters[3] = {
                { .val = a_value, .uaddr = (uintptr_t) a, .flags = FUTEX_32 },
                { .val = b_value, .uaddr = (uintptr_t) b, .flags = FUTEX_32 },
                { .val = c_value, .uaddr = (uintptr_t) c, .flags = FUTEX_32 },
        };
        long r = syscall(SYS_futex_waitv, waiters, 3, 0, deadline, CLOCK_MONOTONIC);

        return r < 0 ? -errno : (int) r;
}
