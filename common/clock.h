/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>
#include <time.h>

#define USEC_PER_SEC 1000000ull
#define USEC_PER_MSEC 1000ull
#define NSEC_PER_USEC 1000ull
#define USEC_INFINITY UINT64_MAX

/* CLOCK_MONOTONIC, microseconds. */
static inline uint64_t clock_now_us(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / NSEC_PER_USEC;
}

/* The same, nanoseconds. */
static inline uint64_t clock_now_ns(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * (USEC_PER_SEC * NSEC_PER_USEC) + (uint64_t) ts.tv_nsec;
}

static inline struct timespec clock_timespec(uint64_t us) {
        return (struct timespec) {
                .tv_sec = (time_t) (us / USEC_PER_SEC),
                .tv_nsec = (long) (us % USEC_PER_SEC * NSEC_PER_USEC),
        };
}
