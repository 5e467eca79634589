/* SPDX-License-Identifier: MIT */
/* Properties of the broker's order, in virtual time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/order-background.h"
#include "common/clock.h"
#include "common/macro.h"
#include "tests/lib/test.h"
#include "tests/sim/models.h"

static const struct sim_source *const near = &sim_sources[0], *const far = &sim_sources[1];

/* ---- traces that are made here ---- */

static void trace_new(struct sim_trace *trace, uint64_t n_pages) {
        *trace = (struct sim_trace) { .n_pages = n_pages };
}

static unsigned add_client(struct sim_trace *trace, const char *name, enum request_class class) {
        trace->clients = reallocarray(trace->clients, trace->n_clients + 1, sizeof *trace->clients);
        cr_assert(trace->clients);
        trace->clients[trace->n_clients] = (struct sim_client) { .class = class };
        (void) snprintf(trace->clients[trace->n_clients].name, sizeof trace->clients->name, "%s", name);
        return trace->n_clients++;
}

static void add_wish(struct sim_trace *trace, unsigned client, unsigned think_us, uint64_t first, unsigned count) {
        trace->wishes = reallocarray(trace->wishes, trace->n_wishes + 1, sizeof *trace->wishes);
        cr_assert(trace->wishes);
        trace->wishes[trace->n_wishes++] = (struct sim_wish) { client, think_us, first, count };
}

static uint64_t next_random(uint64_t *seed) {
        *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
        return *seed >> 33;
}

static void read_trace(struct sim_trace *trace, const char *name) {
        char path[512];
        const char *wrong;
        unsigned line;

        (void) snprintf(path, sizeof path, "%s/%s.trace", TRACES, name);
        wrong = sim_trace_read(path, trace, &line);
        cr_assert(!wrong, "%s:%u: %s", path, line, wrong);
}

/* What holds for every run. */
static void assert_sound(const struct sim_trace *trace, const struct sim_options *options,
                         const struct sim_result *result) {
        size_t n = 0;

        cr_assert_eq(result->pages_read_twice, 0);
        cr_assert_eq(result->inversions, 0, "a background read was begun before a demand that waited");
        if (options->fill)
                cr_assert_eq(result->pages_missing, 0);
        for (unsigned i = 0; i < trace->n_clients; i++)
                cr_assert(trace->n_wishes == 0 || result->client_ended_us[i] >= options->begin_us,
                          "client %u never ended", i);
        for (unsigned i = 0; i < N_CLASSES; i++)
                n += result->n_waits[i];
        cr_assert_leq(n, trace->n_wishes);
}

static void run(const struct sim_trace *trace, const struct sim_options *options, struct sim_result *ret) {
        sim_run(trace, options, ret);
        assert_sound(trace, options, ret);
}

static uint64_t worst(const uint64_t *us, size_t n) {
        uint64_t max = 0;

        for (size_t i = 0; i < n; i++)
                max = max_u64(max, us[i]);
        return max;
}

/* ---- recorded and written traces, all sources ---- */

static const char *const names[] = { "sequential", "random", "together" };

TEST(sim, every_trace_comes_to_its_end_with_each_page_read_once) {
        for (unsigned t = 0; t < ELEMENTS(names); t++) {
                struct sim_trace trace;

                read_trace(&trace, names[t]);
                for (unsigned s = 0; s < N_SIM_SOURCES; s++)
                        for (unsigned share = 0; share <= 100; share += 50) {
                                struct sim_options options = SIM_OPTIONS_DEFAULT(&sim_sources[s]);
                                struct sim_result result;

                                options.fill_share = share;
                                run(&trace, &options, &result);
                                cr_assert_gt(result.n_reads, 0);
                                sim_result_done(&result);
                        }
                sim_trace_done(&trace);
        }
}

TEST(sim, the_same_trace_gives_the_same_numbers) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        struct sim_result a, b;
        struct sim_trace trace;

        read_trace(&trace, "together");
        run(&trace, &options, &a);
        run(&trace, &options, &b);
        cr_assert_eq(a.ended_us, b.ended_us);
        cr_assert_eq(a.n_reads, b.n_reads);
        cr_assert(memcmp(a.reads, b.reads, a.n_reads * sizeof *a.reads) == 0);
        sim_result_done(&a);
        sim_result_done(&b);
        sim_trace_done(&trace);
}

/* ---- the fill ---- */

/* Of a plain sequential copy: the source busy from the first byte to the last. */
TEST(sim, fill_alone_is_as_quick_as_a_copy) {
        for (unsigned s = 0; s < N_SIM_SOURCES; s++) {
                struct sim_options options = SIM_OPTIONS_DEFAULT(&sim_sources[s]);
                uint64_t pages = 65536, copy_us;
                struct sim_result result;
                struct sim_trace trace;

                trace_new(&trace, pages);
                run(&trace, &options, &result);
                copy_us = options.source->latency_us + pages * 4096 / options.source->bytes_per_us;
                cr_assert_leq(result.ended_us * 9, copy_us * 10, "%s: %llu us, a copy %llu", options.source->name,
                              (unsigned long long) result.ended_us, (unsigned long long) copy_us);
                sim_result_done(&result);
                sim_trace_done(&trace);
        }
}

/* One extent: a read and a half that queue beside the one that is served, or what comes within ORDER_EXTENT_US. */
static uint64_t one_extent_us(const struct sim_source *source) {
        uint64_t read_us = 64 * 4096 / source->bytes_per_us;

        return max_u64(ORDER_EXTENT_US + read_us, read_us * 5 / 2 + 1);
}

TEST(sim, first_demand_after_a_quiet_time_waits_for_one_extent_at_most) {
        for (unsigned s = 0; s < N_SIM_SOURCES; s++)
                for (unsigned i = 0; i < 50; i++) {
                        struct sim_options options = SIM_OPTIONS_DEFAULT(&sim_sources[s]);
                        uint64_t bound_us = one_extent_us(options.source);
                        struct sim_result result;
                        struct sim_trace trace;

                        trace_new(&trace, 262144);
                        add_wish(&trace, add_client(&trace, "late", CLASS_VCPU), 0, 262000, 1);
                        /* Once the extent has been found out, at any moment of it. */
                        options.begin_us = (s ? 4000000 : 100000) + i * 137;
                        run(&trace, &options, &result);
                        cr_assert_eq(result.n_waits[CLASS_VCPU], 1);
                        cr_assert_leq(result.wait_us[CLASS_VCPU][0], bound_us + options.source->latency_us + 42 + 4,
                                      "%s, at %llu us: %llu us", options.source->name,
                                      (unsigned long long) options.begin_us,
                                      (unsigned long long) result.wait_us[CLASS_VCPU][0]);
                        sim_result_done(&result);
                        sim_trace_done(&trace);
                }
}

/* A fault each millisecond: what the fill puts before each is one small read. */
TEST(sim, faults_during_the_fill_wait_for_one_small_read_at_most) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        uint64_t seed = 3, piece_us = ORDER_PIECE_PAGES * 4096 / far->bytes_per_us;
        struct sim_result result;
        struct sim_trace trace;
        unsigned client;

        trace_new(&trace, 262144);
        client = add_client(&trace, "cpu", CLASS_VCPU);
        for (unsigned i = 0; i < 400; i++)
                add_wish(&trace, client, 1000, 131072 + next_random(&seed) % 131072, 1);
        options.around = 1;
        options.begin_us = 1;
        run(&trace, &options, &result);
        for (size_t i = 0; i < result.n_reads; i++)
                if (result.reads[i].class == CLASS_VCPU && i > 64)
                        cr_assert_leq(result.reads[i].ahead_us, piece_us, "read %zu: %llu us", i,
                                      (unsigned long long) result.reads[i].ahead_us);
        sim_result_done(&result);
        sim_trace_done(&trace);
}

TEST(sim, extents_grow_while_nobody_waits_and_are_small_at_a_demand) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(near);
        struct sim_result quiet, busy;
        struct sim_trace trace;
        uint64_t seed = 5;
        unsigned client;

        trace_new(&trace, 65536);
        run(&trace, &options, &quiet);
        cr_assert_geq(quiet.extent_max, 8);
        client = add_client(&trace, "cpu", CLASS_VCPU);
        for (unsigned i = 0; i < 2000; i++)
                add_wish(&trace, client, 100, next_random(&seed) % 65536, 1);
        options.around = 1;
        run(&trace, &options, &busy);
        for (size_t i = 64; i < busy.n_reads && busy.reads[i].begun_us + ORDER_QUIET_US < busy.client_ended_us[client];
             i++)
                if (busy.reads[i].class == CLASS_FILL)
                        cr_assert_leq(busy.reads[i].n, ORDER_PIECE_PAGES, "read %zu has %u pages", i, busy.reads[i].n);
        sim_result_done(&quiet);
        sim_result_done(&busy);
        sim_trace_done(&trace);
}

/* While a client always wants something: the part of the source's time that the fill had. */
static unsigned fill_part(unsigned share) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        uint64_t seed = 7, fill_us = 0, end_us;
        struct sim_result result;
        struct sim_trace trace;
        unsigned client;

        trace_new(&trace, 262144);
        client = add_client(&trace, "cpu", CLASS_VCPU);
        for (unsigned i = 0; i < 1000; i++)
                add_wish(&trace, client, 1000, 131072 + next_random(&seed) % 131072, 1);
        options.around = 1;
        options.fill_share = share;
        run(&trace, &options, &result);
        end_us = result.client_ended_us[client];
        for (size_t i = 0; i < result.n_reads; i++)
                if (result.reads[i].class == CLASS_FILL && result.reads[i].begun_us < end_us)
                        fill_us += result.reads[i].ended_us - result.reads[i].begun_us;
        sim_result_done(&result);
        sim_trace_done(&trace);
        return (unsigned) (fill_us * 100 / end_us);
}

TEST(sim, fill_has_its_share_while_somebody_waits) {
        unsigned quarter = fill_part(25), half = fill_part(50), all = fill_part(100);

        cr_assert(quarter >= 15 && quarter <= 30, "%u", quarter);
        cr_assert(half >= 40 && half <= 55, "%u", half);
        cr_assert(all >= 80, "%u", all);
        cr_assert_leq(fill_part(0), 5);
}

TEST(sim, fill_keeps_its_rate) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(near);
        struct sim_result result;
        struct sim_trace trace;

        trace_new(&trace, 65536);
        options.fill_rate = 64 << 20;
        run(&trace, &options, &result);
        cr_assert(result.ended_us >= 3800000 && result.ended_us <= 4200000, "256 MiB in %llu us",
                  (unsigned long long) result.ended_us);
        sim_result_done(&result);
        sim_trace_done(&trace);
}

/* ---- demand ---- */

/* A hint for half a GiB, and somebody who wants pages out of the middle of it. */
TEST(sim, demand_takes_its_pages_out_of_a_long_hint) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        struct sim_result result;
        struct sim_trace trace;

        trace_new(&trace, 131072);
        add_wish(&trace, add_client(&trace, "hint", CLASS_PREFETCH), 0, 0, 131072);
        add_wish(&trace, add_client(&trace, "cpu", CLASS_VCPU), 500000, 100003, 3);
        options.fill = false;
        options.around = 1;
        run(&trace, &options, &result);
        cr_assert_eq(result.n_waits[CLASS_VCPU], 1);
        cr_assert_leq(result.wait_us[CLASS_VCPU][0], one_extent_us(far) + far->latency_us + 200, "%llu us of %llu",
                      (unsigned long long) result.wait_us[CLASS_VCPU][0], (unsigned long long) result.ended_us);
        for (size_t i = 0; i < result.n_reads; i++)
                if (result.reads[i].class == CLASS_VCPU)
                        cr_assert_eq(result.reads[i].n, 3, "its own pages, not the whole extent");
        cr_assert_eq(result.pages_missing, 0);
        sim_result_done(&result);
        sim_trace_done(&trace);
}

/* One wants 64 MiB at once, the other a page at a time. */
TEST(sim, a_greedy_client_does_not_starve_another_of_its_class) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        struct sim_result result;
        struct sim_trace trace;
        unsigned greedy, modest;
        uint64_t read_us = 64 * 4096 / far->bytes_per_us;

        trace_new(&trace, 65536);
        greedy = add_client(&trace, "greedy", CLASS_DEVICE);
        modest = add_client(&trace, "modest", CLASS_DEVICE);
        add_wish(&trace, greedy, 0, 0, 16384);
        for (unsigned i = 0; i < 3; i++)
                add_wish(&trace, modest, 0, 32768 + i * 1000, 1);
        options.fill = false;
        options.around = 1;
        run(&trace, &options, &result);
        cr_assert_lt(result.client_ended_us[modest], result.client_ended_us[greedy]);
        /* What the source has taken cannot be taken back: its window of the other's reads, and no more. */
        for (size_t i = 0; i < result.n_waits[CLASS_DEVICE]; i++)
                cr_assert_leq(result.wait_us[CLASS_DEVICE][i],
                              i < 3 ? (far->window + 1) * read_us + far->latency_us + 100 : UINT64_MAX);
        sim_result_done(&result);
        sim_trace_done(&trace);
}

TEST(sim, clients_of_a_class_have_equal_parts) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(far);
        struct sim_result result;
        struct sim_trace trace;

        trace_new(&trace, 65536);
        for (unsigned i = 0; i < 4; i++)
                add_wish(&trace, add_client(&trace, "disk", CLASS_DEVICE), 0, i * 16384, i == 0 ? 16384 : 8192);
        options.fill = false;
        options.around = 1;
        run(&trace, &options, &result);
        for (unsigned i = 1; i < 4; i++) {
                uint64_t a = result.client_served[0], b = result.client_served[i];

                /* All wished at the same moment: but for the window, which the first had while it was alone. */
                cr_assert_leq(a > b ? a - b : b - a, 2ull * far->window * 64, "%llu and %llu pages",
                              (unsigned long long) a, (unsigned long long) b);
        }
        sim_result_done(&result);
        sim_trace_done(&trace);
}

/* ---- read-around ---- */

static void run_around(const char *name, const struct sim_source *source, struct sim_result *ret) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(source);
        struct sim_trace trace;

        read_trace(&trace, name);
        options.fill = false;
        run(&trace, &options, ret);
        sim_trace_done(&trace);
}

/* Page after page: of so many, so many had to be waited for. */
static size_t count_sequential_waits(const struct sim_source *source) {
        struct sim_options options = SIM_OPTIONS_DEFAULT(source);
        struct sim_result result;
        struct sim_trace trace;
        unsigned client;
        size_t n;

        trace_new(&trace, 8192);
        client = add_client(&trace, "disk", CLASS_DEVICE);
        for (unsigned i = 0; i < 4096; i++)
                add_wish(&trace, client, 1, i, 1);
        options.fill = false;
        run(&trace, &options, &result);
        n = result.n_waits[CLASS_DEVICE];
        sim_result_done(&result);
        sim_trace_done(&trace);
        return n;
}

TEST(sim, neighbours_that_are_read_together_are_read_at_once) {
        size_t near_waits = count_sequential_waits(near), far_waits = count_sequential_waits(far);

        cr_assert_leq(far_waits, 4096 / 12, "%zu waits", far_waits);
        /* Little is worth while where the way is short. */
        cr_assert_leq(near_waits, 4096 / 4, "%zu waits", near_waits);
        cr_assert_lt(2 * far_waits, near_waits);
}

TEST(sim, a_recorded_sequential_device_waits_little_longer_than_the_way) {
        struct sim_result result;

        run_around("sequential", far, &result);
        cr_assert_leq(sim_quantile(result.wait_us[CLASS_DEVICE], result.n_waits[CLASS_DEVICE], 0.5),
                      2 * far->latency_us);
        sim_result_done(&result);
}

TEST(sim, random_pages_bring_little_along) {
        for (unsigned s = 0; s < N_SIM_SOURCES; s++) {
                struct sim_result result;

                run_around("random", &sim_sources[s], &result);
                cr_assert_leq(result.around_pages, 8 * result.demand_pages, "%llu for %llu",
                              (unsigned long long) result.around_pages, (unsigned long long) result.demand_pages);
                sim_result_done(&result);
        }
}

/* ---- classes ---- */

/* A vCPU that faults without end takes three of four turns of a source that has one at a time, and not the fourth. */
TEST(sim, devices_are_served_beside_a_vcpu_that_faults_without_end) {
        const struct sim_source narrow = { .name = "narrow", .latency_us = 1000, .bytes_per_us = 100, .window = 1 };
        struct sim_options options = SIM_OPTIONS_DEFAULT(&narrow);
        struct sim_result result;
        struct sim_trace trace;
        unsigned cpu, disk;

        trace_new(&trace, 65536);
        cpu = add_client(&trace, "cpu", CLASS_VCPU);
        disk = add_client(&trace, "disk", CLASS_DEVICE);
        add_wish(&trace, cpu, 0, 0, 16384);
        for (unsigned i = 0; i < 20; i++)
                add_wish(&trace, disk, 0, 32768 + i * 640, 1);
        options.fill = false;
        options.around = 1;
        run(&trace, &options, &result);
        cr_assert_lt(result.client_ended_us[disk], result.client_ended_us[cpu]);
        cr_assert_leq(worst(result.wait_us[CLASS_DEVICE], result.n_waits[CLASS_DEVICE]), 5 * (1000 + 2622 + 10));
        sim_result_done(&result);
        sim_trace_done(&trace);
}
