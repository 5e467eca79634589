/* SPDX-License-Identifier: MIT */
#include "broker/order-background.h"

#include <assert.h>

#include "broker/slice.h"
#include "common/clock.h"
#include "common/macro.h"

/* ---- extent ---- */

/* Of reads in a queue at the source. */
#define QUEUE_UNIT 16u
#define ROUND_MIN 4u
/* Rounds between two looks at reads alone, and how many of those. */
#define ROUNDS_ALONE 128u
#define ALONE 2u

/* Reads that wait for others at the source, by the time that they took. */
static uint32_t count_queued(const struct order_extent *extent) {
        return (uint32_t) ((uint64_t) extent->reads * QUEUE_UNIT * (extent->round_us - extent->base_us) /
                           extent->round_us);
}

static void begin_alone(struct order_extent *extent) {
        extent->alone = ALONE;
        extent->skip = extent->reads - 1;
        extent->reads = extent->want = 1;
}

static void note_alone(struct order_extent *extent, uint32_t us) {
        if (extent->skip > 0) {
                extent->skip--;
                return;
        }
        extent->base_us = extent->alone == ALONE ? us : (uint32_t) min_u64(extent->base_us, us);
        if (--extent->alone > 0)
                return;
        extent->want = 2;
        extent->skip = extent->n = extent->rounds = 0;
        extent->met = false;
}

/* What brings queue and time back to their bounds, whichever allows more. */
static uint32_t shrunk(const struct order_extent *extent, uint32_t queued) {
        uint32_t by_queue = extent->reads - (uint32_t) min_u64((queued - 1) / QUEUE_UNIT, extent->reads - 1);
        uint64_t by_time = (uint64_t) extent->reads * (extent->base_us + ORDER_EXTENT_US) / extent->round_us;

        return (uint32_t) max_u64(by_queue, min_u64(by_time, extent->reads - 1));
}

static void end_round(struct order_extent *extent, unsigned max) {
        uint32_t queued, excess_us, before = extent->reads;

        if (extent->reads == 1)
                extent->base_us = extent->round_us; /* nothing was before it */
        queued = count_queued(extent);
        excess_us = extent->round_us - extent->base_us;
        extent->n = 0;
        /* One more would wait for as long as one takes in the row of those that are there. */
        if (queued < QUEUE_UNIT / 2 || excess_us + extent->round_us / before <= ORDER_EXTENT_US)
                extent->want = (uint32_t) min_u64(extent->met ? before + 1 : 2 * before, max_u64(max, 1));
        else {
                if (queued > QUEUE_UNIT * 3 / 2)
                        extent->reads = shrunk(extent, queued);
                extent->want = extent->reads;
                extent->met = true;
        }
        /* Those under way were begun before that, and say how it was then. */
        extent->skip = extent->want == before ? 0 : (uint32_t) max_u64(extent->want, before);
        if (++extent->rounds >= ROUNDS_ALONE && extent->reads > 1)
                begin_alone(extent);
}

void order_extent_note(struct order_extent *extent, unsigned pages, uint64_t took_us, unsigned max) {
        uint32_t us = (uint32_t) min_u64(max_u64(took_us * SLICE_PAGES / max_u64(pages, 1), 1), 60 * USEC_PER_SEC);

        /* Short ones are mostly latency; scaled up they would look slow. */
        if (order_is_short(pages))
                return;
        if (extent->reads == 0)
                extent->reads = extent->want = 1;
        if (extent->alone) {
                note_alone(extent, us);
                return;
        }
        if (extent->reads < extent->want) /* one more for each that is answered */
                extent->reads++;
        extent->base_us = extent->base_us ? (uint32_t) min_u64(extent->base_us, us) : us;
        if (extent->skip > 0) {
                extent->skip--;
                return;
        }
        extent->round_us = extent->n ? (uint32_t) min_u64(extent->round_us, us) : us;
        if (++extent->n >= max_u64(extent->want, ROUND_MIN))
                end_round(extent, max);
}

void order_extent_demand(struct order_extent *extent) {
        extent->reads = extent->want = 1;
        extent->n = extent->alone = extent->skip = extent->rounds = 0;
        extent->met = false;
}

unsigned order_extent_get(const struct order_extent *extent) {
        return extent->reads ?: 1;
}

/* ---- share ---- */

void order_share_demand(struct order_share *share, uint64_t now_us) {
        share->demand_us = max_u64(now_us, 1);
}

void order_share_begin(struct order_share *share, uint64_t now_us) {
        share->demands++;
        order_share_demand(share, now_us);
}

void order_share_end(struct order_share *share, uint64_t now_us) {
        assert(share->demands > 0);
        share->demands--;
        order_share_demand(share, now_us);
}

bool order_share_is_busy(const struct order_share *share, uint64_t now_us) {
        return share->demands > 0 || (share->demand_us && now_us < share->demand_us + ORDER_QUIET_US);
}

void order_share_note(struct order_share *share, uint64_t now_us, uint64_t took_us, unsigned percent) {
        /* A second at most: one read that hung is not to be paid for with minutes. */
        share->due_us =
                percent ? now_us + min_u64(took_us * (100 - min_u64(percent, 100)) / percent, USEC_PER_SEC) : now_us;
}

uint64_t order_share_due(const struct order_share *share, uint64_t now_us, unsigned percent) {
        if (!order_share_is_busy(share, now_us))
                return 0;
        if (percent == 0)
                return share->demands ? UINT64_MAX : share->demand_us + ORDER_QUIET_US;
        return now_us < share->due_us ? share->due_us : 0;
}

/* ---- both ---- */

static uint64_t extent_room(unsigned n, unsigned max) {
        return n < max ? 0 : UINT64_MAX;
}

uint64_t order_background_due(const struct order_background *background, enum request_class class, unsigned pages,
                              uint64_t now_us, unsigned percent) {
        if (class == CLASS_FILL && order_share_is_busy(&background->share, now_us)) {
                if (background->n + background->n_short > 0)
                        return UINT64_MAX;
                return order_share_due(&background->share, now_us, percent);
        }
        if (order_is_short(pages))
                return extent_room(background->n_short, order_depth_get(&background->short_reads.depth));
        return extent_room(background->n, order_extent_get(&background->extent));
}

void order_background_begin(struct order_background *background, unsigned pages) {
        if (order_is_short(pages))
                background->n_short++;
        else
                background->n++;
}

void order_background_end(struct order_background *background, enum request_class class, unsigned pages, bool good,
                          uint64_t now_us, uint64_t took_us, unsigned percent) {
        unsigned *n = order_is_short(pages) ? &background->n_short : &background->n;

        assert(*n > 0);
        (*n)--;
        if (class == CLASS_FILL)
                order_share_note(&background->share, now_us, took_us, percent);
        if (good && order_is_short(pages))
                order_short_note(&background->short_reads, now_us - took_us, took_us, ORDER_DEPTH_MAX);
        else if (good)
                order_extent_note(&background->extent, pages, took_us, ORDER_EXTENT_MAX);
}

void order_demand_begin(struct order_background *background, uint64_t now_us) {
        order_share_begin(&background->share, now_us);
        order_extent_demand(&background->extent);
}

void order_demand_end(struct order_background *background, uint64_t now_us) {
        order_share_end(&background->share, now_us);
}
