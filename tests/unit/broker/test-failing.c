/* SPDX-License-Identifier: MIT */
/* When a source counts as failing, and when as mended. */
#include "broker/failing.h"
#include "common/clock.h"
#include "tests/lib/test.h"

#define AT(seconds) ((uint64_t) (seconds) * USEC_PER_SEC)

TEST(failing, first_of_many_failures_is_told) {
        struct failing failing = {};

        cr_assert(failing_again(&failing, AT(10)));
        for (unsigned i = 0; i < 100; i++)
                cr_assert(!failing_again(&failing, AT(10 + i)));
}

TEST(failing, read_that_failed_and_succeeds_ends_it) {
        struct failing failing = {}, was = {};

        (void) failing_again(&failing, AT(10));
        (void) failing_again(&failing, AT(12));
        cr_assert(failing_no_more(&failing, true, AT(13), &was));
        cr_assert_eq(was.n, 2);
        cr_assert_eq(was.since_us, AT(10));
        cr_assert(!failing_no_more(&failing, true, AT(14), &was), "said twice");
        cr_assert(failing_again(&failing, AT(15)), "a new story is told anew");
}

TEST(failing, other_pages_that_can_be_read_do_not_end_it_at_once) {
        struct failing failing = {}, was;

        (void) failing_again(&failing, AT(10));
        cr_assert(!failing_no_more(&failing, false, AT(11), &was));
        cr_assert(!failing_again(&failing, AT(12)));
        cr_assert(!failing_no_more(&failing, false, AT(16), &was));
        cr_assert(failing_no_more(&failing, false, AT(17), &was), "none has failed for 5 s");
        cr_assert_eq(was.n, 2);
}

TEST(failing, success_of_a_source_that_never_failed_is_no_news) {
        struct failing failing = {}, was;

        cr_assert(!failing_no_more(&failing, false, AT(10), &was));
        cr_assert(!failing_no_more(&failing, true, AT(10), &was));
}
