/* SPDX-License-Identifier: MIT */
/*
 * The broker's order in virtual time: traces of what clients want, a source that is a latency, a bandwidth and a window, and between
 * them the broker's own decisions (order.c, order-background.c, the lanes of fetch.c). Nothing here looks at a clock: the
 * same trace gives the same numbers anywhere.
 *
 * What is modelled by hand is what pager-reads.c, pager-around.c, pager-fill.c and slice.c do around these decisions: pages
 * that are claimed, one read a slice, neighbours that come along, demands that take their pages out of queued reads.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/request.h"

/* One wish of a client: after the wish before it was fulfilled and `think_us` more. */
struct sim_wish {
        uint32_t client; /* index of sim_trace.clients */
        uint32_t think_us;
        uint64_t first;
        uint32_t count;
};

struct sim_client {
        char name[32];
        enum request_class class; /* vcpu, device or prefetch: a hint, which nobody waits for */
};

struct sim_trace {
        uint64_t n_pages; /* of the memory */
        struct sim_client *clients;
        unsigned n_clients;
        struct sim_wish *wishes; /* of all clients, in the file's order */
        size_t n_wishes;
};

/* NULL, or what is wrong, and in which line. tests/sim/README.md is the format. */
const char *sim_trace_read(const char *path, struct sim_trace *ret, unsigned *ret_line);
void sim_trace_done(struct sim_trace *trace);

/* Reads are served one after the other at `bytes_per_us`, beside each other on their way: each takes `latency_us` more.
 * More than `window` at once are not taken. */
struct sim_source {
        const char *name;
        uint64_t latency_us;
        uint64_t bytes_per_us; /* MB/s */
        unsigned window;
};

struct sim_options {
        const struct sim_source *source;
        bool fill;
        uint64_t fill_rate;  /* bytes per second; 0: no limit */
        unsigned fill_share; /* per cent */
        unsigned around;     /* pages at most; 1: none */
        uint64_t begin_us;   /* when the clients begin; the fill does at 0 */
};

#define SIM_OPTIONS_DEFAULT(from) \
        ((struct sim_options) { .source = (from), .fill = true, .fill_share = 50, .around = ORDER_AROUND_MAX })

/* A read, as the source has seen it. */
struct sim_read {
        uint64_t begun_us, served_us, ended_us; /* served: its turn at the source came */
        uint64_t first;
        unsigned n;
        enum request_class class;
        uint64_t owner;
        uint64_t ahead_us; /* of service that background reads had before it when it came */
};

struct sim_result {
        uint64_t ended_us;            /* when everything had come */
        uint64_t *wait_us[N_CLASSES]; /* of demands, in their order */
        size_t n_waits[N_CLASSES];
        uint64_t *client_ended_us; /* by client: its last wish fulfilled */
        uint64_t *client_served;   /* by client: pages read for it before the first client had ended */
        struct sim_read *reads;
        size_t n_reads;
        uint64_t pages_read, pages_read_twice, pages_missing;
        uint64_t inversions;                 /* background reads begun while a demand's could have been */
        unsigned extent_max, background_max; /* reads under way */
        uint64_t demand_pages, around_pages; /* of demands' reads: what was wanted, what came along */
};

void sim_run(const struct sim_trace *trace, const struct sim_options *options, struct sim_result *ret);
void sim_result_done(struct sim_result *result);

/* Of sorted or unsorted numbers: sorts. 0 if there are none. */
uint64_t sim_quantile(uint64_t *values, size_t n, double part);
