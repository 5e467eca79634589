/* SPDX-License-Identifier: MIT */
/* Whether and when a failed read is tried again. */
#include "broker/retry.h"

#include <errno.h>

#include "common/clock.h"
#include "tests/lib/test.h"

static const struct retry_policy policy = {
        .retries = 10,
        .deadline_us = { [CLASS_VCPU] = 8 * USEC_PER_SEC, [CLASS_DEVICE] = 4 * USEC_PER_SEC,
                         [CLASS_PREFETCH] = 2 * USEC_PER_SEC, [CLASS_FILL] = 1 * USEC_PER_SEC },
};

#define START (1000 * USEC_PER_SEC)

static bool again(unsigned attempt, enum request_class class, int error, uint64_t now_us, uint64_t *ret_due_us) {
        const struct retry_state state = { .attempt = attempt, .since_us = START, .class = class };

        return retry_again(&policy, &state, error, now_us, ret_due_us);
}

TEST(retry, pause_doubles_up_to_its_limit) {
        static const uint64_t pauses_ms[] = { 10, 20, 40, 80, 160, 320, 640, 640, 640 };

        for (unsigned i = 0; i < sizeof pauses_ms / sizeof pauses_ms[0]; i++) {
                uint64_t due_us = 0;

                cr_assert(again(i, CLASS_VCPU, -EIO, START, &due_us));
                cr_assert_eq(due_us, START + pauses_ms[i] * USEC_PER_MSEC, "attempt %u", i);
        }
}

TEST(retry, tries_are_counted) {
        uint64_t due_us;

        cr_assert(again(9, CLASS_VCPU, -EIO, START, &due_us));
        cr_assert(!again(10, CLASS_VCPU, -EIO, START, &due_us));
        cr_assert(!again(10, CLASS_VCPU, -ETIMEDOUT, START, &due_us));
}

TEST(retry, every_class_has_its_own_deadline) {
        for (unsigned class = 0; class < N_CLASSES; class++) {
                uint64_t end_us = START + policy.deadline_us[class], due_us;

                cr_assert(again(0, class, -EIO, end_us - 11 * USEC_PER_MSEC, &due_us), "class %u", class);
                cr_assert_lt(due_us, end_us);
                cr_assert(!again(0, class, -EIO, end_us - 10 * USEC_PER_MSEC, &due_us), "class %u", class);
                cr_assert(!again(0, class, -EIO, end_us + USEC_PER_SEC, &due_us), "class %u", class);
        }
}

TEST(retry, changed_source_is_not_asked_again) {
        uint64_t due_us;

        cr_assert(!again(0, CLASS_VCPU, -ESTALE, START, &due_us));
}

/* What stood in a queue behind reads that never ended was not tried at all: its time has not begun. */
TEST(retry, what_was_never_started_has_all_its_time) {
        const struct retry_state state = { .class = CLASS_FILL };
        uint64_t due_us;

        cr_assert(retry_again(&policy, &state, -ETIMEDOUT, START + 100 * USEC_PER_SEC, &due_us));
}

TEST(retry, read_ends_with_its_class_at_the_latest) {
        const struct retry_state state = { .since_us = START, .class = CLASS_DEVICE };

        cr_assert_eq(retry_read_deadline(&policy, &state, USEC_PER_SEC, START), START + USEC_PER_SEC);
        cr_assert_eq(retry_read_deadline(&policy, &state, USEC_PER_SEC, START + 3500000), START + 4 * USEC_PER_SEC);
        cr_assert_eq(retry_read_deadline(&policy, &state, USEC_PER_SEC, START + 9 * USEC_PER_SEC),
                     START + 9 * USEC_PER_SEC);
}
