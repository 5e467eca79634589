/* SPDX-License-Identifier: MIT */
/*
 * How much may be under way at a source for nobody who stands still. Decisions without a clock, a lock or a system call, as
 * those in order.h: the broker and tests/sim run the same ones.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/order.h"

/*
 * The background's extent: what it may have under way at a source at once, pages in a row, in reads of up to a slice. It grows
 * while nobody stands still, and is one read again at a demand.
 *
 * The bound: a demand waits at the source for one extent at most. Of `reads` under way that take `base_us` each with nothing
 * before them and `us` now, the part (1 - base_us / us) stands in a queue there, for us - base_us; the others are what the
 * source does at the same time, or are on the line, and delay nobody. The extent grows only while what queues is less than half
 * a read or, with one read more, not more than ORDER_EXTENT_US, and shrinks when it is more than one and a half and more than
 * that: so a slow source has one read waiting, and a quick one as much as it brings in so short a time, which many need to be
 * quick. It is measured by the quickest read of a round: what delays all of them is a queue, what delays some is the machine.
 *
 * It doubles until it has met that limit, one read more for each that is answered: a round whose answers are not here yet may
 * overshoot, and is cut back by the whole excess at its end. A queue of our own must not pass for the source's pace, nor a
 * source that has become slower for a queue: now and then there is a look at reads alone.
 */
struct order_extent {
        uint32_t base_us;  /* of a read per 64 pages; 0: none seen */
        uint32_t reads;    /* 0: not begun */
        uint32_t want;     /* what it grows to */
        uint32_t n;        /* answered, of this round */
        uint32_t round_us; /* the quickest of them */
        uint32_t rounds;   /* since the last look at reads alone */
        uint32_t alone;    /* of that look, reads to come; 0: it does not go on */
        uint32_t skip;     /* reads that were begun before the last change */
        bool met;          /* the limit, since the last demand */
};

#define ORDER_EXTENT_MAX 32u  /* reads: 8 MiB; those of a file are half of the reader's depth at most: 4 MiB */
#define ORDER_EXTENT_US 2500u /* what a demand may find before it, where a single read takes less */

void order_extent_note(struct order_extent *extent, unsigned pages, uint64_t took_us, unsigned max);
void order_extent_demand(struct order_extent *extent);
unsigned order_extent_get(const struct order_extent *extent);

/*
 * What the fill may have while somebody stands still, or has just now: one small read at once, and of the time no more than a
 * share. One for each source, for reads, and one for the processor, for what is copied from page cache.
 */
struct order_share {
        unsigned demands;   /* under way */
        uint64_t demand_us; /* when one last began or ended; 0: never */
        uint64_t due_us;    /* when the background may go on */
};

#define ORDER_QUIET_US 5000u /* so long after the last demand it counts as idle */
/* Reads that may have been claimed and not begun, whosever, when the fill claims another: what is claimed is read in one piece. */
#define ORDER_FILL_AHEAD 8u
#define ORDER_PIECE_PAGES 16u /* of a background read in the meantime: 64 KiB */

void order_share_demand(struct order_share *share, uint64_t now_us);
void order_share_begin(struct order_share *share, uint64_t now_us);
void order_share_end(struct order_share *share, uint64_t now_us);
bool order_share_is_busy(const struct order_share *share, uint64_t now_us);
/* Background work that took `took_us` is over. `percent` 0: none, 100: all of the time. */
void order_share_note(struct order_share *share, uint64_t now_us, uint64_t took_us, unsigned percent);
/* When background work may begin: 0: now; UINT64_MAX: when the demands under way have ended. */
uint64_t order_share_due(const struct order_share *share, uint64_t now_us, unsigned percent);

/*
 * All of one source: prefetches and fill share the extent and the depth of short reads; the fill alone, the class behind all
 * others, makes room for whoever stands still.
 */
struct order_background {
        struct order_extent extent;
        struct order_short_depth short_reads;
        struct order_share share;
        unsigned n, n_short; /* background reads under way */
};

/* When a background read of so many pages may begin, as order_share_due(). UINT64_MAX also: when another one has ended. */
uint64_t order_background_due(const struct order_background *background, enum request_class class, unsigned pages,
                              uint64_t now_us, unsigned percent);
void order_background_begin(struct order_background *background, unsigned pages);
/* `good`: it was answered, and says something about the source. */
void order_background_end(struct order_background *background, enum request_class class, unsigned pages, bool good,
                          uint64_t now_us, uint64_t took_us, unsigned percent);
void order_demand_begin(struct order_background *background, uint64_t now_us);
void order_demand_end(struct order_background *background, uint64_t now_us);
