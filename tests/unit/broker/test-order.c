/* SPDX-License-Identifier: MIT */
/* The pager's decisions, one by one. */
#include "broker/order.h"

#include <stdlib.h>

#include "common/clock.h"
#include "common/macro.h"
#include "tests/lib/test.h"

static enum request_class turn(struct order_turns *turns, bool vcpu, bool device, bool prefetch, bool fill) {
        const bool waiting[N_CLASSES] = { vcpu, device, prefetch, fill };
        enum request_class class = order_pick(turns, waiting);

        if (class < N_CLASSES)
                order_picked(turns, class, waiting);
        return class;
}

TEST(order, background_waits_for_all_demand) {
        struct order_turns turns = {};

        for (unsigned i = 0; i < 100; i++)
                cr_assert(class_is_demand(turn(&turns, i % 3 != 0, i % 3 == 0, true, true)));
        cr_assert_eq(turn(&turns, false, false, true, true), CLASS_PREFETCH);
        cr_assert_eq(turn(&turns, false, false, false, false), N_CLASSES);
}

TEST(order, every_fourth_turn_is_the_devices) {
        struct order_turns turns = {};
        unsigned devices = 0;

        for (unsigned i = 0; i < 100; i++)
                devices += turn(&turns, true, true, false, false) == CLASS_DEVICE;
        cr_assert_eq(devices, 25);
}

TEST(order, every_fourth_background_turn_is_the_fills) {
        struct order_turns turns = {};
        unsigned fills = 0;

        for (unsigned i = 0; i < 100; i++)
                fills += turn(&turns, false, false, true, true) == CLASS_FILL;
        cr_assert_eq(fills, 25);
}

TEST(order, who_did_not_wait_gets_no_credit_for_it) {
        struct order_turns turns = {};

        for (unsigned i = 0; i < 100; i++)
                cr_assert_eq(turn(&turns, true, false, false, false), CLASS_VCPU);
        cr_assert_eq(turn(&turns, true, true, false, false), CLASS_VCPU);
}

TEST(order, a_far_source_brings_more_along_than_a_near_one) {
        struct order_link near = {}, far = {};

        for (unsigned i = 0; i < 50; i++) {
                order_link_note(&near, 1, 80);        /* 80 us, 2 GB/s */
                order_link_note(&near, 64, 80 + 128);
                order_link_note(&far, 1, 5000);       /* 5 ms, 500 MB/s */
                order_link_note(&far, 64, 5000 + 512);
        }
        cr_assert(order_link_around(&near) >= 30 && order_link_around(&near) <= 50, "%u", order_link_around(&near));
        cr_assert(order_link_around(&far) >= 500 && order_link_around(&far) <= 700, "%u", order_link_around(&far));
}

TEST(order, knows_nothing_of_a_source_at_first) {
        cr_assert_eq(order_link_around(&(struct order_link) {}), ORDER_AROUND_MIN);
}

TEST(order, window_grows_over_neighbours_up_to_the_limit) {
        struct order_locality locality = {};
        unsigned window = 1;

        /* One after the other: the next that is missing is the first that did not come along. */
        for (uint64_t page = 0; page < 4000; page += window)
                window = order_locality_note(&locality, page, 300);
        cr_assert_eq(window, 256, "a power of two within the limit, not %u", window);
}

TEST(order, window_shrinks_over_random_pages) {
        struct order_locality locality = { .pages = 1024 };
        unsigned window = 0;

        for (uint64_t i = 1; i < 200; i++)
                window = order_locality_note(&locality, i * 7919 * 7919 % 100000000, 1024);
        cr_assert_eq(window, ORDER_AROUND_MIN);
}

/* ---- short reads: as many at once as the depth says, of a source that serves so many in parallel ---- */

#define SHORT_MAX 64u

struct short_source {
        uint64_t service_us, latency_us; /* one after the other; beside each other */
        unsigned slow_every;             /* one of so many takes three times as long; 0: none */
};

/* The depth, in the mean, over the second half of so many reads. */
static unsigned run_short(const struct short_source *source, unsigned n) {
        uint64_t begun[SHORT_MAX], ends[SHORT_MAX], now_us = 0, free_us = 0, sum = 0;
        struct order_short_depth depth = {};
        unsigned under_way = 0, first;

        for (unsigned done = 0, started = 0; done < n; done++) {
                while (under_way < order_depth_get(&depth.depth)) {
                        uint64_t latency_us = source->latency_us;

                        if (source->slow_every && ++started % source->slow_every == 0)
                                latency_us *= 3;
                        free_us = max_u64(free_us, now_us) + source->service_us;
                        begun[under_way] = now_us;
                        ends[under_way++] = free_us + latency_us;
                }
                first = 0;
                for (unsigned i = 1; i < under_way; i++)
                        first = ends[i] < ends[first] ? i : first;
                now_us = max_u64(now_us, ends[first]);
                order_short_note(&depth, begun[first], ends[first] - begun[first], SHORT_MAX);
                under_way--;
                begun[first] = begun[under_way];
                ends[first] = ends[under_way];
                sum += done >= n / 2 ? order_depth_get(&depth.depth) : 0;
        }
        return (unsigned) (sum / (n - n / 2));
}

TEST(order, short_reads_of_a_far_source_are_many_at_once) {
        cr_assert_geq(run_short(&(struct short_source) { 10, 1000, 0 }, 4000), SHORT_MAX - 8);
}

TEST(order, a_slow_read_among_many_short_ones_changes_little) {
        cr_assert_geq(run_short(&(struct short_source) { 10, 1000, 30 }, 4000), SHORT_MAX / 4);
}

TEST(order, short_reads_that_queue_stay_few) {
        cr_assert_leq(run_short(&(struct short_source) { 5000, 0, 0 }, 4000), 2);
        cr_assert_leq(run_short(&(struct short_source) { 100, 20, 0 }, 4000), 2);
}

TEST(order, rate_is_kept) {
        struct order_rate rate = { .bytes_per_second = 10 << 20 };
        uint64_t now_us = 1000 * USEC_PER_SEC, begin_us = now_us, taken = 0;

        while (now_us < begin_us + 10 * USEC_PER_SEC) {
                uint64_t due_us = order_rate_take(&rate, now_us, 256 << 10);

                if (due_us == 0)
                        taken += 256 << 10;
                else {
                        cr_assert_gt(due_us, now_us);
                        now_us = due_us;
                }
        }
        cr_assert(taken >= 100ull << 20 && taken <= 102ull << 20, "%llu", (unsigned long long) taken);
}

TEST(order, rate_does_not_save_up_what_was_not_used) {
        struct order_rate rate = { .bytes_per_second = 1 << 20 };
        uint64_t now_us = 1000 * USEC_PER_SEC, taken = 0;

        cr_assert_eq(order_rate_take(&rate, now_us, 4096), 0);
        now_us += 3600 * USEC_PER_SEC;
        while (order_rate_take(&rate, now_us, 4096) == 0)
                taken += 4096;
        cr_assert(taken <= 128 << 10, "%llu", (unsigned long long) taken);
}

TEST(order, no_rate_is_no_limit) {
        struct order_rate rate = {};

        for (unsigned i = 0; i < 1000; i++)
                cr_assert_eq(order_rate_take(&rate, 5, UINT64_MAX / 2), 0);
}
