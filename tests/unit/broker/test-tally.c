/* SPDX-License-Identifier: MIT */
/* What is published about clients: times, notes of who waits, the trail of reads. */
#include "broker/tally.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "broker/memory.h"
#include "broker/trail.h"
#include "common/clock.h"
#include "tests/lib/test.h"

TEST(latency, every_time_is_at_most_its_bound_and_above_the_one_before) {
        for (unsigned shift = 0; shift < 64; shift++)
                for (int delta = -1; delta <= 1; delta++) {
                        uint64_t ns = (1ull << shift) + (uint64_t) delta;
                        struct latency *latency = calloc(1, sizeof *latency);
                        unsigned bucket = 0;

                        latency_add(latency, ns);
                        while (bucket < LATENCY_BUCKETS && atomic_load(&latency->buckets[bucket]) == 0)
                                bucket++;
                        cr_assert_lt(bucket, LATENCY_BUCKETS);
                        cr_assert_leq(ns, latency_bound_ns(bucket), "%llu", (unsigned long long) ns);
                        cr_assert(bucket == 0 || ns > latency_bound_ns(bucket - 1), "%llu", (unsigned long long) ns);
                        free(latency);
                }
}

TEST(latency, bounds_are_at_most_a_quarter_apart) {
        for (unsigned i = 1; i < LATENCY_BUCKETS - 1; i++)
                cr_assert_leq((latency_bound_ns(i) + 1) * 4, (latency_bound_ns(i - 1) + 1) * 5, "bucket %u", i);
}

TEST(latency, percentiles_are_of_what_was_added) {
        struct latency *latency = calloc(1, sizeof *latency);
        struct latency_figures figures;

        latency_get_figures(latency, &figures);
        cr_assert(figures.count == 0 && figures.p50_ns == 0 && figures.p99_ns == 0 && figures.max_ns == 0);
        for (unsigned i = 1; i <= 1000; i++)
                latency_add(latency, i * 1000);
        latency_get_figures(latency, &figures);
        cr_assert_eq(figures.count, 1000);
        cr_assert_eq(figures.max_ns, 1000000);
        cr_assert_eq(figures.sum_ns, 500500000);
        cr_assert(figures.p50_ns >= 500000 && figures.p50_ns <= 625000, "%llu", (unsigned long long) figures.p50_ns);
        cr_assert(figures.p99_ns >= 990000 && figures.p99_ns <= 1000000, "%llu", (unsigned long long) figures.p99_ns);
        free(latency);
}

TEST(latency, merged_histograms_count_both) {
        struct latency *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
        struct latency_figures figures;

        latency_add(a, 1000);
        latency_add(b, 5000);
        latency_add(b, 7000);
        latency_merge(a, b);
        latency_get_figures(a, &figures);
        cr_assert(figures.count == 3 && figures.sum_ns == 13000 && figures.max_ns == 7000);
        free(a);
        free(b);
}

TEST(tally, a_departed_clients_times_stay_counted) {
        struct latency *departed = calloc(TALLY_CLASSES, sizeof *departed);
        struct tally *list = NULL, *one = tally_new(), *user = tally_ref(one);
        struct latency_figures figures;

        LL_PREPEND(list, one);
        tally_begin(user, CLASS_DEVICE);
        tally_end(user, CLASS_DEVICE, clock_now_ns());
        tally_sweep(&list, departed);
        cr_assert(list == one, "it is still used");
        user = tally_unref(user);
        tally_sweep(&list, departed);
        cr_assert_null(list);
        latency_get_figures(&departed[CLASS_DEVICE], &figures);
        cr_assert_eq(figures.count, 1);
        latency_get_figures(&departed[CLASS_VCPU], &figures);
        cr_assert_eq(figures.count, 0);
        free(departed);
}

TEST(tally, what_ends_without_an_answer_has_no_time) {
        struct tally *list = NULL, *tally = tally_new();
        struct latency_figures figures;

        LL_PREPEND(list, tally);
        tally_begin(tally, CLASS_VCPU);
        cr_assert_eq(atomic_load(&tally->waiting[CLASS_VCPU]), 1);
        tally_end(tally, CLASS_VCPU, 0);
        cr_assert_eq(atomic_load(&tally->waiting[CLASS_VCPU]), 0);
        latency_get_figures(&tally->latency[CLASS_VCPU], &figures);
        cr_assert_eq(figures.count, 0);
        tally_free_all(&list);
}

static struct request *request_over(unsigned memory, unsigned n_ranges) {
        static struct memory memories[PB_MEMORIES_MAX];
        static struct request request;

        memories[memory].index = memory;
        request.n_ranges = n_ranges;
        for (unsigned i = 0; i < n_ranges; i++)
                request.ranges[i] = (struct page_range) { .memory = &memories[memory], .first = 100 * i + 7, .count = i + 1 };
        return &request;
}

TEST(tally, a_waiting_slot_says_its_ranges) {
        struct tally *list = NULL, *tally = tally_new();
        struct waited waited[PB_SLOT_RANGES];

        LL_PREPEND(list, tally);
        cr_assert_eq(tally_add_slots(tally), 0);
        cr_assert_eq(tally_read_slot(&tally->slots[3], waited), 0);
        for (unsigned n = PB_SLOT_RANGES; n >= 1; n--) { /* downwards: nothing of the longer one may be left */
                tally_note_slot(tally, 3, request_over(15, n), 1000 + n);
                cr_assert_eq(tally_read_slot(&tally->slots[3], waited), n);
                for (unsigned i = 0; i < n; i++)
                        cr_assert(waited[i].since_ns == 1000 + n && waited[i].memory == 15 && waited[i].first == 100 * i + 7 &&
                                  waited[i].count == i + 1);
                tally_clear_slot(tally, 3);
                cr_assert_eq(tally_read_slot(&tally->slots[3], waited), 0);
        }
        tally_free_all(&list);
}

TEST(tally, the_largest_range_fits_a_note) {
        struct memory memory = { .index = PB_MEMORIES_MAX - 1 };
        const struct page_range range = {
                .memory = &memory,
                .first = PB_MEMORY_SIZE_MAX / PB_PAGE_BYTES - 1,
                .count = PB_MEMORY_SIZE_MAX / PB_PAGE_BYTES,
        };
        struct fault_note note = {};
        struct waited waited;
        int error = 0;

        cr_assert(!tally_read_fault(&note, &waited, &error));
        atomic_store(&note.range, tally_pack(&range));
        atomic_store(&note.error, -EIO);
        atomic_store(&note.since_ns, 5);
        cr_assert(tally_read_fault(&note, &waited, &error));
        cr_assert(waited.memory == PB_MEMORIES_MAX - 1 && waited.first == range.first && waited.count == TALLY_COUNT_MAX);
        cr_assert(waited.since_ns == 5 && error == -EIO);
}

TEST(trail, says_what_is_read_and_what_failed) {
        struct trail *trail = calloc(1, sizeof *trail);
        struct trail_answer answer = trail_look(trail, 2, 77);

        cr_assert(answer.reading == 0 && answer.failed == 0 && answer.tries == 0);
        trail_read_begins(trail, 2, 77, 0xf0);
        trail_failed(trail, 2, 77, 0x0f, 2, -EIO, 123);
        answer = trail_look(trail, 2, 77);
        cr_assert(answer.reading == 0xf0 && answer.failed == 0x0f && answer.tries == 2 && answer.error == -EIO &&
                  answer.at_us == 123);
        trail_read_ends(trail, 2, 77, 0x30);
        cr_assert_eq(trail_look(trail, 2, 77).reading, 0xc0);
        cr_assert_eq(trail_look(trail, 1, 77).reading, 0);
        cr_assert_eq(trail_look(trail, 2, 78).reading, 0);
        free(trail);
}

TEST(trail, a_newer_slice_takes_a_place_that_nothing_is_read_for) {
        struct trail *trail = calloc(1, sizeof *trail);

        /* Many more slices than places: each is seen right after it was noted, whatever it displaced. */
        for (uint64_t slice = 0; slice < 8 * TRAIL_PLACES; slice++) {
                trail_failed(trail, 0, slice, 1, 1, -EIO, slice + 1);
                cr_assert_eq(trail_look(trail, 0, slice).at_us, slice + 1);
        }
        free(trail);
}

TEST(trail, what_is_being_read_keeps_its_place) {
        struct trail *trail = calloc(1, sizeof *trail);

        trail_read_begins(trail, 0, 5, 1);
        for (uint64_t slice = 6; slice < 8 * TRAIL_PLACES; slice++)
                trail_failed(trail, 0, slice, 1, 1, -EIO, 1);
        cr_assert_eq(trail_look(trail, 0, 5).reading, 1);
        free(trail);
}
