/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "protocol/order.h"
#include "protocol/session-state.h"
#include "tests/lib/test.h"

TEST(session, outcome_keeps_sequence_and_result) {
        static const int32_t results[] = { 0, PB_OUTCOME_TAKEN, -EIO, -EAGAIN, INT32_MIN };
        static const uint32_t sequences[] = { 1, 2, 0x80000000u, UINT32_MAX };

        for (unsigned i = 0; i < 5; i++)
                for (unsigned j = 0; j < 4; j++) {
                        uint64_t outcome = outcome_make(sequences[j], results[i]);

                        cr_assert_eq(outcome_sequence(outcome), sequences[j]);
                        cr_assert_eq(outcome_result(outcome), results[i]);
                }
}

/* The broker reads op, flags and n_ranges in one access: a client cannot change one of them in between. */
TEST(session, head_is_the_three_fields_at_once) {
        struct pb_slot slot = { .op = PB_SLOT_DISCARD, .flags = PB_SLOT_ASYNC, .n_ranges = 7 }, copy = {};

        copy.head = order_slot_load32(&slot.head);
        cr_assert_eq(copy.op, PB_SLOT_DISCARD);
        cr_assert_eq(copy.flags, PB_SLOT_ASYNC);
        cr_assert_eq(copy.n_ranges, 7);
}

TEST(session, pushes_are_taken_once) {
        uint64_t ready[2] = {};
        uint32_t summary = 0;

        order_request_push(&ready[1], 1ull << 63, &summary, 2);
        order_request_push(&ready[1], 1, &summary, 2);
        cr_assert(order_request_is_pending(&summary));
        cr_assert_eq(order_request_take_summary(&summary), 2);
        cr_assert_eq(order_request_take_summary(&summary), 0);
        cr_assert_eq(order_request_take(&ready[1]), 1ull << 63 | 1);
        cr_assert_eq(order_request_take(&ready[1]), 0);
        cr_assert(!order_request_is_pending(&summary));
}

TEST(session, event_changes_and_tells_of_sleepers) {
        uint32_t event = 41, sleepers = 0;

        cr_assert(!order_event_bump(&event, &sleepers));
        order_sleepers_enter(&sleepers);
        cr_assert(order_event_bump(&event, &sleepers));
        order_sleepers_leave(&sleepers);
        cr_assert_eq(event, 43);
        cr_assert_eq(sleepers, 0);
}

TEST(session, completion_is_posted_before_its_tail) {
        uint32_t entries[PB_RING_SLOTS] = {}, tail = UINT32_MAX; /* free-running: it wraps */

        order_completion_post(&entries[tail % PB_RING_SLOTS], 17, &tail, tail + 1);
        cr_assert_eq(order_completion_tail(&tail), 0);
        cr_assert_eq(order_completion_entry(&entries[PB_RING_SLOTS - 1]), 17);
}
