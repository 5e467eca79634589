/* SPDX-License-Identifier: MIT */
/*
 * Page states. A slice is 64 pages (two words of the map); it exists only while something in it is in flight, so a
 * memory of 1 TiB costs nothing until it is touched.
 *
 * A page is in one of these states; the first two and the last are what the map says, the others are masks of its
 * slice:
 *
 *      absent ----> queued ----> fetching ----> installing ----> present
 *         |            |             |              ^ |
 *         |            +-- drop -----+-- drop ------|-|-----> absent   (nobody wants it any more, or retry)
 *         +-- hot, zero, overwrite, discard --------+ +-----> poisoned (after the last retry) ----> absent (heal)
 *
 * absent      nobody works on it
 * queued      a cold read is going to be started (its fetch is in the fetch queue)
 * fetching    a cold read into a private buffer is under way
 * installing  one thread, and only that thread, writes its bytes
 *
 * Every transition happens under the shard's lock, in slice.c. The right to install is the state `installing`; a cold
 * read gets it only if the page's ticket is still the one it was started with: late, overtaken and retried answers
 * find another ticket, or the page present, and are dropped (invariant 2).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#define SLICE_BITS 6 /* a slice is two words of the map, and one mask of 64 bits */
#define SLICE_PAGES (1u << SLICE_BITS)
#define SLICE_SHARDS 64u

struct fetch;
struct memory;
struct request;
struct wait;

struct slice {
        UT_hash_handle hh;
        uint64_t index;
        uint64_t queued, fetching, installing; /* disjoint */
        uint32_t ticket[SLICE_PAGES];          /* valid for queued and fetching pages */
        struct wait *waits;
        struct fetch *fetches; /* queued ones, for raising their class */
};

struct slice_shard {
        pthread_mutex_t lock;
        struct slice *slices; /* uthash by index */
};

/* A request's interest in pages of one slice. Lives in the request; linked into the slice while mask is not 0. */
struct wait {
        struct wait *prev, *next;
        struct request *request;
        struct memory *memory;
        uint64_t slice;
        uint64_t mask; /* pages awaited; under the shard's lock */
        int result;    /* set before the wait is handed back */
        bool active;   /* atomic: cleared last by whoever hands it back */
};

static inline uint64_t slice_of(uint64_t page) {
        return page >> SLICE_BITS;
}

/* Mask of pages [first, last], both in one slice. */
static inline uint64_t slice_mask(uint64_t first, uint64_t last) {
        return (~0ull << (first % SLICE_PAGES)) & (~0ull >> (63 - last % SLICE_PAGES));
}

/* The lowest run of set bits. `mask` is not 0. */
static inline void mask_first_run(uint64_t mask, unsigned *ret_first, unsigned *ret_count) {
        unsigned first = (unsigned) __builtin_ctzll(mask);
        uint64_t rest = ~(mask >> first);

        *ret_first = first;
        *ret_count = rest ? (unsigned) __builtin_ctzll(rest) : 64 - first;
}

void slice_shards_init(struct memory *memory);
void slice_shards_done(struct memory *memory);

enum slice_want_flags {
        SLICE_TAKE_OVER = 1u << 0,     /* overwrite, discard: claim queued, fetching and poisoned pages too */
        SLICE_SKIP_POISONED = 1u << 1, /* hints, fill: leave poisoned pages alone */
};

/*
 * Claims the absent pages of `mask` for the caller (state installing, returned in `*ret_claimed`) and attaches `wait`
 * (may be NULL: claim only) to those and to the pages that are already in flight. A demand claims pages that are queued for
 * background reads, too; other queued fetches of such pages are raised to the class of the wait's request. Returns 1 if the wait was attached, 0 if there was nothing to wait for, -EIO if
 * a page is poisoned (nothing was done), -ENOMEM.
 */
int slice_want(struct memory *memory, uint64_t slice, uint64_t mask, unsigned flags, struct wait *wait,
               uint64_t *ret_claimed);

/* installing -> queued for `mask`, for the fetch, which is linked to the slice. `enqueue` false: not into the fetch queue
 * yet (a retry that is not due). */
void slice_queue(struct memory *memory, uint64_t slice, uint64_t mask, struct fetch *fetch, bool enqueue);

/* queued -> fetching for the pages that still carry the fetch's ticket; unlinks it. Returns their mask, which becomes the
 * fetch's. With `must_be_awaited` a fetch that no request waits for any more is dropped instead: 0. Pages of `around` come
 * along (absent or queued -> fetching, but for retries), if the fetch has any of its own. */
uint64_t slice_start_fetch(struct memory *memory, uint64_t slice, struct fetch *fetch, bool must_be_awaited,
                           uint64_t around);

/* fetching -> installing for the pages of the fetch that still carry its ticket: to install them, or, after a failed
 * or late read, to queue them again, poison or drop them. Returns their mask. */
uint64_t slice_start_install(struct memory *memory, uint64_t slice, const struct fetch *fetch);

/* installing -> what the map says (present, poisoned, absent) for `mask`; waits on these pages are satisfied with
 * `result` and those that are finished come back as a list, to be handed to wait_done() without the lock. A result
 * other than 0 finishes a wait at once. */
struct wait *slice_settle(struct memory *memory, uint64_t slice, uint64_t mask, int result);

/* As slice_settle() with a failure, for the pages that no demand waits for. The others stay installing: their mask.
 * `leave_out`: the fill is not to try them again. */
struct wait *slice_settle_unwanted(struct memory *memory, uint64_t slice, uint64_t mask, int result, bool leave_out,
                                   uint64_t *ret_demanded);

/* As slice_settle() with a failure, and sets the poison bits under the same lock. */
struct wait *slice_poison(struct memory *memory, uint64_t slice, uint64_t mask, int reason);

/* poisoned -> absent for what of `mask` is poisoned: returns it. Nobody waits for a poisoned page. What the fill left out
 * it tries again. */
uint64_t slice_heal(struct memory *memory, uint64_t slice, uint64_t mask);

/* Takes a wait out of its slice if it is still there: true if it was. */
bool slice_forget(struct wait *wait);
