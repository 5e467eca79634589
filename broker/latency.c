/* SPDX-License-Identifier: MIT */
#include "broker/latency.h"

#include "common/macro.h"

static unsigned bucket_of(uint64_t ns) {
        unsigned bit;

        if (ns < 1ull << LATENCY_FIRST_BIT)
                return 0;
        bit = 63 - (unsigned) __builtin_clzll(ns);
        if (bit > LATENCY_LAST_BIT)
                return LATENCY_BUCKETS - 1;
        return 1 + (bit - LATENCY_FIRST_BIT) * 4 + (unsigned) (ns >> (bit - 2) & 3);
}

uint64_t latency_bound_ns(unsigned bucket) {
        unsigned step = bucket - 1;

        if (bucket == 0)
                return (1ull << LATENCY_FIRST_BIT) - 1;
        if (bucket >= LATENCY_BUCKETS - 1)
                return UINT64_MAX;
        return ((step % 4 + 5ull) << (LATENCY_FIRST_BIT + step / 4 - 2)) - 1;
}

static void raise_max(struct latency *latency, uint64_t ns) {
        uint_fast64_t max = atomic_load_explicit(&latency->max_ns, memory_order_relaxed);

        while (ns > max && !atomic_compare_exchange_weak_explicit(&latency->max_ns, &max, ns, memory_order_relaxed,
                                                                  memory_order_relaxed))
                ;
}

void latency_add(struct latency *latency, uint64_t ns) {
        atomic_fetch_add_explicit(&latency->buckets[bucket_of(ns)], 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&latency->sum_ns, ns, memory_order_relaxed);
        raise_max(latency, ns);
}

void latency_merge(struct latency *into, const struct latency *from) {
        for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
                uint64_t n = atomic_load_explicit(&from->buckets[i], memory_order_relaxed);

                if (n > 0)
                        atomic_fetch_add_explicit(&into->buckets[i], n, memory_order_relaxed);
        }
        atomic_fetch_add_explicit(&into->sum_ns, atomic_load_explicit(&from->sum_ns, memory_order_relaxed),
                                  memory_order_relaxed);
        raise_max(into, atomic_load_explicit(&from->max_ns, memory_order_relaxed));
}

void latency_get_figures(const struct latency *latency, struct latency_figures *ret) {
        uint64_t counts[LATENCY_BUCKETS], seen = 0;
        struct latency_figures figures = {
                .sum_ns = atomic_load_explicit(&latency->sum_ns, memory_order_relaxed),
                .max_ns = atomic_load_explicit(&latency->max_ns, memory_order_relaxed),
        };

        for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
                figures.count += counts[i] = atomic_load_explicit(&latency->buckets[i], memory_order_relaxed);
        for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
                uint64_t before = seen, bound = min_u64(latency_bound_ns(i), figures.max_ns);

                seen += counts[i];
                /* The smallest bound under which half, and 99 of a hundred, are. */
                if (before * 2 < figures.count && seen * 2 >= figures.count)
                        figures.p50_ns = bound;
                if (before * 100 < figures.count * 99 && seen * 100 >= figures.count * 99)
                        figures.p99_ns = bound;
        }
        *ret = figures;
}
