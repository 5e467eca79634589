/* SPDX-License-Identifier: MIT */
#include "broker/retry.h"

#include <errno.h>

#include "common/clock.h"
#include "common/macro.h"

/* 10, 20, 40 ms...: what a hiccup takes, while somebody stands still. At most what a person calls a moment. */
#define FIRST_PAUSE_US (10 * USEC_PER_MSEC)
#define PAUSE_DOUBLINGS_MAX 6u

static uint64_t deadline_of(const struct retry_policy *policy, const struct retry_state *state, uint64_t now_us) {
        return (state->since_us ?: now_us) + policy->deadline_us[state->class];
}

bool retry_again(const struct retry_policy *policy, const struct retry_state *state, int error, uint64_t now_us,
                 uint64_t *ret_due_us) {
        uint64_t due_us = now_us + (FIRST_PAUSE_US << min_u64(state->attempt, PAUSE_DOUBLINGS_MAX));

        /* A source that is another one by now does not become the old one by waiting. */
        if (error == -ESTALE || state->attempt >= policy->retries || due_us >= deadline_of(policy, state, now_us))
                return false;
        *ret_due_us = due_us;
        return true;
}

uint64_t retry_read_deadline(const struct retry_policy *policy, const struct retry_state *state, uint64_t timeout_us,
                             uint64_t now_us) {
        return min_u64(now_us + timeout_us, max_u64(deadline_of(policy, state, now_us), now_us));
}
