/* SPDX-License-Identifier: MIT */
/* How much is under way for nobody who stands still. */
#include "broker/order-background.h"

#include "common/clock.h"
#include "common/macro.h"
#include "tests/lib/test.h"

/* ---- the extent, of a source that does one after the other what takes `service_us`, after `latency_us` beside each other ---- */

struct model {
        uint64_t service_us, latency_us;
        unsigned noise_every; /* one of so many takes three times as long; 0: none */
};

struct outcome {
        unsigned extent; /* the mean of the second half */
        uint64_t
                behind_us; /* how long a demand would have stood behind what was under way, in the mean of the second half */
        uint64_t idle_us; /* what the source had nothing to do, in the second half */
};

static struct outcome run(struct order_extent *extent, const struct model *model, unsigned n) {
        uint64_t begun[ORDER_EXTENT_MAX], ends[ORDER_EXTENT_MAX], now_us = 1, free_us = 0, sum = 0;
        struct outcome out = {};
        unsigned under_way = 0;

        for (unsigned done = 0, started = 0; done < n; done++) {
                unsigned first = 0;

                while (under_way < order_extent_get(extent)) {
                        bool slow = model->noise_every && ++started % model->noise_every == 0;
                        uint64_t at_us = now_us + model->latency_us * (slow ? 3 : 1); /* it arrives */

                        if (done >= n / 2 && at_us > free_us)
                                out.idle_us += at_us - free_us;
                        free_us = max_u64(free_us, at_us) + model->service_us;
                        begun[under_way] = now_us;
                        ends[under_way++] = free_us;
                }
                if (done >= n / 2 && free_us > now_us + model->latency_us)
                        out.behind_us += free_us - now_us - model->latency_us;
                for (unsigned i = 1; i < under_way; i++)
                        first = ends[i] < ends[first] ? i : first;
                now_us = max_u64(now_us, ends[first]);
                order_extent_note(extent, 64, now_us - begun[first], ORDER_EXTENT_MAX);
                under_way--;
                begun[first] = begun[under_way];
                ends[first] = ends[under_way];
                sum += done >= n / 2 ? order_extent_get(extent) : 0;
        }
        out.extent = (unsigned) (sum / (n - n / 2));
        out.behind_us /= n - n / 2;
        return out;
}

TEST(order_extent, begins_with_one_read) {
        cr_assert_eq(order_extent_get(&(struct order_extent) {}), 1);
}

TEST(order_extent, grows_within_few_reads_where_nothing_queues) {
        struct order_extent extent = {};

        for (unsigned i = 0; i < 200; i++)
                order_extent_note(&extent, 64, 5000, ORDER_EXTENT_MAX);
        cr_assert_eq(order_extent_get(&extent), ORDER_EXTENT_MAX);
}

/* The bound: the one in service and one behind it, where a read takes longer than ORDER_EXTENT_US. */
TEST(order_extent, keeps_a_source_busy_that_does_one_after_the_other_and_queues_one) {
        struct order_extent extent = {};
        struct outcome out = run(&extent, &(struct model) { 3000, 20, 0 }, 20000);

        cr_assert_eq(out.extent, 2);
        cr_assert_leq(out.behind_us, 2 * 3000 + 100);
        cr_assert_leq(out.idle_us, 10000 * 20, "idle for %llu us of 30 s", (unsigned long long) out.idle_us);
}

/* 15 ms away, a read takes it 3 ms: six on the line and in service, and one behind them. */
TEST(order_extent, fills_the_line_to_a_far_source_and_queues_one) {
        struct order_extent extent = {};
        struct outcome out = run(&extent, &(struct model) { 3000, 15000, 0 }, 20000);

        cr_assert(out.extent >= 6 && out.extent <= 8, "%u", out.extent);
        cr_assert_leq(out.behind_us, 3000 * 5 / 2, "%llu us", (unsigned long long) out.behind_us);
        cr_assert_leq(out.idle_us, 3000000, "idle for %llu us of 30 s", (unsigned long long) out.idle_us);
}

/* A quick one: as much as it does in two milliseconds. */
TEST(order_extent, takes_a_quick_source_no_longer_than_its_time) {
        struct order_extent extent = {};
        struct outcome out = run(&extent, &(struct model) { 200, 50, 0 }, 20000);

        cr_assert_geq(out.extent, 8);
        cr_assert_leq(out.behind_us, ORDER_EXTENT_US + 2 * 200, "%llu us", (unsigned long long) out.behind_us);
}

TEST(order_extent, is_not_misled_by_single_slow_reads) {
        struct order_extent extent = {};
        struct outcome out = run(&extent, &(struct model) { 3000, 15000, 10 }, 20000);

        cr_assert(out.extent >= 5 && out.extent <= 9, "%u", out.extent);
}

/* A queue of one's own is not the source's pace, however long it stands. */
TEST(order_extent, does_not_creep_up) {
        struct order_extent extent = {};

        cr_assert_eq(run(&extent, &(struct model) { 3000, 0, 0 }, 500000).extent, 2);
}

TEST(order_extent, follows_a_source_that_has_become_slower) {
        struct order_extent extent = {};

        (void) run(&extent, &(struct model) { 100, 1000, 0 }, 10000);
        cr_assert_eq(run(&extent, &(struct model) { 5000, 0, 0 }, 20000).extent, 2);
}

TEST(order_extent, is_one_read_again_after_a_demand) {
        struct order_extent extent = {};

        (void) run(&extent, &(struct model) { 100, 5000, 0 }, 1000);
        cr_assert_gt(order_extent_get(&extent), 8);
        order_extent_demand(&extent);
        cr_assert_eq(order_extent_get(&extent), 1);
}

TEST(order_extent, short_reads_say_nothing_of_it) {
        struct order_extent extent = {};

        for (unsigned i = 0; i < 200; i++)
                order_extent_note(&extent, 31, 1000, ORDER_EXTENT_MAX);
        cr_assert_eq(order_extent_get(&extent), 1);
}

/* ---- the share ---- */

TEST(order_share, nothing_is_held_back_while_nobody_waits) {
        struct order_share share = {};

        order_share_note(&share, 1000, 500, 50);
        cr_assert_eq(order_share_due(&share, 1000, 50), 0);
        cr_assert_eq(order_share_due(&share, 1000, 0), 0);
}

TEST(order_share, a_quarter_of_the_time_means_three_times_as_long_a_pause) {
        struct order_share share = {};

        order_share_begin(&share, 1000);
        order_share_note(&share, 2000, 400, 25);
        cr_assert_eq(order_share_due(&share, 2000, 25), 2000 + 3 * 400);
        cr_assert_eq(order_share_due(&share, 2000 + 3 * 400, 25), 0);
}

TEST(order_share, all_of_the_time_means_no_pause) {
        struct order_share share = {};

        order_share_begin(&share, 1000);
        order_share_note(&share, 2000, 400, 100);
        cr_assert_eq(order_share_due(&share, 2000, 100), 0);
}

TEST(order_share, none_of_the_time_means_when_all_is_quiet) {
        struct order_share share = {};

        order_share_begin(&share, 1000);
        cr_assert_eq(order_share_due(&share, 1000000, 0), UINT64_MAX);
        order_share_end(&share, 2000000);
        cr_assert_eq(order_share_due(&share, 2000000, 0), 2000000 + ORDER_QUIET_US);
        cr_assert_eq(order_share_due(&share, 2000000 + ORDER_QUIET_US, 0), 0);
}

TEST(order_share, a_read_that_hung_is_paid_for_with_a_second_at_most) {
        struct order_share share = {};

        order_share_begin(&share, 1);
        order_share_note(&share, 100 * USEC_PER_SEC, 99 * USEC_PER_SEC, 1);
        cr_assert_leq(order_share_due(&share, 100 * USEC_PER_SEC, 1), 101 * USEC_PER_SEC);
}

/* ---- both ---- */

/* A source that takes eight long ones and more short ones. */
static struct order_background grown(void) {
        return (struct order_background) { .extent = { .reads = 8, .base_us = 1000 }, .short_reads.depth.depth = 20 };
}

TEST(order_background, fill_has_its_extent_while_nobody_waits) {
        struct order_background background = grown();

        for (unsigned i = 0; i < 8; i++) {
                cr_assert_eq(order_background_due(&background, CLASS_FILL, 64, 1000, 50), 0);
                order_background_begin(&background, 64);
        }
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 64, 1000, 50), UINT64_MAX);
        cr_assert_eq(order_background_due(&background, CLASS_PREFETCH, 4, 1000, 50), 0,
                     "short ones are counted by themselves");
}

TEST(order_background, fill_has_one_read_while_somebody_waits) {
        struct order_background background = grown();

        order_demand_begin(&background, 1000);
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 16, 1000, 50), 0);
        order_background_begin(&background, 16);
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 16, 1000, 50), UINT64_MAX);
        order_background_end(&background, CLASS_FILL, 16, true, 1100, 100, 50);
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 16, 1100, 50), 1200);
        order_demand_end(&background, 1200);
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 16, 1200 + ORDER_QUIET_US, 50), 0);
}

TEST(order_background, fill_does_not_add_to_a_prefetch_while_somebody_waits) {
        struct order_background background = grown();

        order_demand_begin(&background, 1000);
        order_background_begin(&background, 4);
        cr_assert_eq(order_background_due(&background, CLASS_FILL, 16, 1000, 50), UINT64_MAX);
        cr_assert_eq(order_background_due(&background, CLASS_PREFETCH, 4, 1000, 50), 0);
}

TEST(order_background, what_failed_says_nothing_of_the_source) {
        struct order_background background = grown();

        order_background_begin(&background, 64);
        order_background_end(&background, CLASS_FILL, 64, false, 2000, 1, 50);
        cr_assert_eq(background.extent.base_us, 1000);
        cr_assert_eq(background.n, 0);
}
