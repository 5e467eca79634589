/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a read that has failed: again, after a pause that doubles, until the tries or the time of its class
 * are used up. Decides and nothing else; the clock is an argument.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/request.h"

struct retry_policy {
        unsigned retries;                /* tries after the first */
        uint64_t deadline_us[N_CLASSES]; /* from a page's first read until it is given up */
};

/* A hint or the fill that fails costs nobody anything; they only hold a buffer meanwhile. The demand's is what the
 * default of four reads of 30 s takes at most. */
#define RETRY_POLICY_DEFAULT                                       \
        ((struct retry_policy) {                                   \
                .retries = 3,                                      \
                .deadline_us = {                                   \
                        [CLASS_VCPU] = 120 * 1000000ull,           \
                        [CLASS_DEVICE] = 120 * 1000000ull,         \
                        [CLASS_PREFETCH] = 30 * 1000000ull,        \
                        [CLASS_FILL] = 30 * 1000000ull,            \
                },                                                 \
        })

/* One read of a series. */
struct retry_state {
        unsigned attempt;  /* of the read that failed; the first is 0 */
        uint64_t since_us; /* when the first read of the series was started; 0: none was */
        enum request_class class;
};

/* May it be tried again, and when? `error` is why it failed. */
bool retry_again(const struct retry_policy *policy, const struct retry_state *state, int error, uint64_t now_us,
                 uint64_t *ret_due_us);

/* Until when a read that starts now may take: its own timeout, or what is left to its class if that is less. */
uint64_t retry_read_deadline(const struct retry_policy *policy, const struct retry_state *state, uint64_t timeout_us,
                             uint64_t now_us);
