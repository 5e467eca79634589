/* SPDX-License-Identifier: MIT */
#include "broker/order.h"

#include <string.h>

#include "common/clock.h"
#include "common/macro.h"

/* ---- turns ---- */

/* The second of a pair waits for so many of the first at most. */
#define TURNS_IN_ROW 3u

static_assert(CLASS_VCPU == 0 && CLASS_DEVICE == 1 && CLASS_PREFETCH == 2 && CLASS_FILL == 3, "two pairs");

enum request_class order_pick(const struct order_turns *turns, const bool waiting[N_CLASSES]) {
        for (unsigned pair = 0; pair < 2; pair++) {
                enum request_class first = (enum request_class) (2 * pair), second = (enum request_class) (2 * pair + 1);

                if (waiting[second] && (!waiting[first] || turns->in_row[pair] >= TURNS_IN_ROW))
                        return second;
                if (waiting[first])
                        return first;
        }
        return N_CLASSES;
}

void order_picked(struct order_turns *turns, enum request_class class, const bool waiting[N_CLASSES]) {
        unsigned pair = class / 2;

        if (class % 2 || !waiting[class + 1])
                turns->in_row[pair] = 0;
        else
                turns->in_row[pair]++;
}

/* ---- the link ---- */

#define SMALL_PAGES_MAX 4u
#define LARGE_PAGES_MIN 32u

/* An eighth of the news: one slow read says little. Never 0, which is "none seen". */
static uint32_t smooth(uint32_t old, uint64_t new) {
        uint32_t limited = (uint32_t) min_u64(max_u64(new, 1), 60 * USEC_PER_SEC);

        return old ? (uint32_t) max_u64(((uint64_t) old * 7 + limited) / 8, 1) : limited;
}

void order_link_note(struct order_link *link, unsigned pages, uint64_t took_us) {
        if (pages == 0)
                return;
        if (pages <= SMALL_PAGES_MAX) {
                link->small_us = smooth(link->small_us, took_us);
                link->small_pages = smooth(link->small_pages, pages);
        } else if (pages >= LARGE_PAGES_MIN) {
                link->large_us = smooth(link->large_us, took_us);
                link->large_pages = smooth(link->large_pages, pages);
        }
}

/* Without a large read to compare with: 1 GB/s, a quick network or disk. */
#define GUESS_PAGES_PER_MS 244u

unsigned order_link_around(const struct order_link *link) {
        uint64_t pages;

        if (link->small_us == 0)
                return ORDER_AROUND_MIN;
        if (link->large_us > link->small_us && link->large_pages > link->small_pages)
                pages = (uint64_t) link->small_us * (link->large_pages - link->small_pages) /
                        (link->large_us - link->small_us);
        else
                pages = (uint64_t) link->small_us * GUESS_PAGES_PER_MS / USEC_PER_MSEC;
        return (unsigned) min_u64(max_u64(pages, ORDER_AROUND_MIN), ORDER_AROUND_MAX);
}

/* ---- locality ---- */

static unsigned power_of_two_below(unsigned n) {
        return 1u << (31 - __builtin_clz(n));
}

unsigned order_locality_note(struct order_locality *locality, uint64_t page, unsigned limit) {
        unsigned window = locality->pages ?: ORDER_AROUND_MIN;
        bool close = false;

        /* Close: it would have come along if the window had been twice as large. */
        for (unsigned i = 0; i < ORDER_RECENT; i++) {
                uint64_t other = locality->recent[i];

                if (other && (page > other - 1 ? page - (other - 1) : other - 1 - page) <= 2ull * window)
                        close = true;
        }
        locality->recent[locality->next++ % ORDER_RECENT] = page + 1;
        window = close ? window * 2 : window / 2;
        limit = (unsigned) min_u64(max_u64(limit, ORDER_AROUND_MIN), ORDER_AROUND_MAX);
        window = (unsigned) min_u64(max_u64(window, ORDER_AROUND_MIN), power_of_two_below(limit));
        locality->pages = window;
        return window;
}

/* ---- depth of short reads ---- */

/* So many reads in a row that were as quick as the best, for each read more at once. */
#define DEPTH_GOOD 2u

/* A sixty-fourth a read: a source that has become slower for good is believed in the end. */
static bool note_best(struct order_depth *depth, uint64_t us) {
        depth->depth = depth->depth ?: 1;
        depth->best_us = (uint32_t) min_u64(depth->best_us ? depth->best_us + depth->best_us / 64 + 1 : us, us);
        return us <= depth->best_us + depth->best_us / 2;
}

static void raise_depth(struct order_depth *depth, unsigned max) {
        if (++depth->good < DEPTH_GOOD)
                return;
        depth->depth = (uint32_t) min_u64(depth->depth + 1, max_u64(max, 1));
        depth->good = 0;
}

static void lower_depth(struct order_depth *depth) {
        depth->depth = (uint32_t) max_u64(depth->depth * 3 / 4, 1);
        depth->good = 0;
}

bool order_is_short(unsigned pages) {
        return pages < LARGE_PAGES_MIN;
}

void order_short_note(struct order_short_depth *short_depth, uint64_t begun_us, uint64_t took_us, unsigned max) {
        struct order_depth *depth = &short_depth->depth;

        if (note_best(depth, max_u64(took_us, 1)))
                raise_depth(depth, max);
        else if (begun_us >= short_depth->lowered_us) {
                lower_depth(depth);
                short_depth->lowered_us = begun_us + took_us;
        }
}

unsigned order_depth_get(const struct order_depth *depth) {
        return depth->depth ?: 1;
}

/* ---- rate ---- */

#define RATE_BURST_US (USEC_PER_SEC / 10)

uint64_t order_rate_take(struct order_rate *rate, uint64_t now_us, uint64_t bytes) {
        if (rate->bytes_per_second == 0)
                return 0;
        if (now_us < rate->due_us)
                return rate->due_us;
        rate->due_us = max_u64(rate->due_us, now_us > RATE_BURST_US ? now_us - RATE_BURST_US : 0) +
                       bytes * USEC_PER_SEC / rate->bytes_per_second;
        return 0;
}
