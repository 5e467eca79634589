/* SPDX-License-Identifier: MIT */
/*
 * How long things took: a histogram with four buckets to each doubling, so that a percentile is at most a quarter too
 * high. Many threads may add; whoever reads meanwhile sees some of it, which is good enough for figures.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* From 256 ns, below which nothing is told apart, to 275 s, above which neither. */
#define LATENCY_FIRST_BIT 8u
#define LATENCY_LAST_BIT 37u
#define LATENCY_BUCKETS (1u + (LATENCY_LAST_BIT - LATENCY_FIRST_BIT + 1u) * 4u + 1u)

struct latency {
        atomic_uint_fast64_t buckets[LATENCY_BUCKETS];
        atomic_uint_fast64_t sum_ns;
        atomic_uint_fast64_t max_ns;
};

struct latency_figures {
        uint64_t count, p50_ns, p99_ns, max_ns, sum_ns;
};

void latency_add(struct latency *latency, uint64_t ns);

/* Adds what `from` holds. */
void latency_merge(struct latency *into, const struct latency *from);

/* The longest time that belongs into this bucket; UINT64_MAX for the last. */
uint64_t latency_bound_ns(unsigned bucket);

void latency_get_figures(const struct latency *latency, struct latency_figures *ret);
