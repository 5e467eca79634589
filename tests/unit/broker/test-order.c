/* SPDX-License-Identifier: MIT */
/* The pager's decisions, one by one. */
#include "broker/order.h"

#include <stdlib.h>

#include "common/clock.h"
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

/* A disk: one after the other, however many are under way. */
TEST(order, depth_stays_low_where_reads_queue) {
        struct order_depth depth = {};

        for (unsigned i = 0; i < 10000; i++)
                order_depth_note(&depth, 64, 200 * order_depth_get(&depth), 64);
        cr_assert(order_depth_get(&depth) <= 2, "%u", order_depth_get(&depth));
}

/* A network with room: each takes as long, however many there are. */
TEST(order, depth_grows_where_reads_do_not_queue) {
        struct order_depth depth = {};

        for (unsigned i = 0; i < 200; i++)
                order_depth_note(&depth, 64, 5000 + i % 7 * 100, 64);
        cr_assert_eq(order_depth_get(&depth), 64);
}

TEST(order, depth_falls_to_one_when_somebody_stands_still) {
        struct order_depth depth = { .depth = 40, .best_us = 100 };

        order_depth_demand(&depth);
        cr_assert_eq(order_depth_get(&depth), 1);
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
