/* SPDX-License-Identifier: MIT */
#include "broker/failing.h"

#include "common/clock.h"

/* Longer than the longest pause before another try (retry.c). */
#define QUIET_US (5 * USEC_PER_SEC)

bool failing_again(struct failing *failing, uint64_t now_us) {
        failing->last_us = now_us;
        if (failing->n++ > 0)
                return false;
        failing->since_us = now_us;
        return true;
}

bool failing_no_more(struct failing *failing, bool is_retry, uint64_t now_us, struct failing *ret_was) {
        if (failing->n == 0 || (!is_retry && now_us - failing->last_us < QUIET_US))
                return false;
        *ret_was = *failing;
        *failing = (struct failing) {};
        return true;
}
