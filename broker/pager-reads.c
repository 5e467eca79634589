/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/publish.h"
#include "broker/serve.h"
#include "broker/source.h"
#include "common/clock.h"
#include "common/macro.h"

static uint64_t fetch_offset(const struct fetch *fetch) {
        return fetch->memory->source_offset + fetch_first_page(fetch) * PB_PAGE_BYTES;
}

/* Which of the source's counts a background read is in: read.length is as it was made. */
static unsigned *background_count(const struct fetch *fetch) {
        struct source *source = fetch->source;

        return order_is_short(fetch->read.length / (uint32_t) PB_PAGE_BYTES) ? &source->n_background_short
                                                                               : &source->n_background;
}

static bool background_has_room(const struct source *source, const struct fetch *fetch) {
        if (order_is_short(fetch_n_pages(fetch)))
                return source->n_background_short < order_depth_get(&source->background_short.depth);
        return source->n_background < order_depth_get(&source->background);
}

static void pager_start_read(struct pager *pager, struct fetch *fetch) {
        struct source *source = source_leaf(fetch->memory->source, fetch_offset(fetch));
        bool demand = class_is_demand(fetch->class);
        uint64_t around = pager_around(pager, fetch, source), now_us;
        uint64_t wanted = slice_start_fetch(fetch->memory, fetch->slice, fetch, demand, around);
        struct retry_state state;
        int r;

        if (!wanted) {
                (void) fetch_free(fetch);
                return;
        }
        fetch->cold_mask = source->ops->cold_mask(source, fetch_offset(fetch), fetch_n_pages(fetch));
        now_us = clock_now_us();
        fetch->begun_us = now_us;
        if (fetch->since_us == 0)
                fetch->since_us = now_us;
        state = fetch_retry_state(fetch);
        fetch->deadline_us = retry_read_deadline(&pager->options.retry, &state, pager->options.source_timeout_us, now_us);
        fetch->source = source;
        fetch->read.offset = fetch_offset(fetch);
        fetch->read.length = fetch_n_pages(fetch) * (uint32_t) PB_PAGE_BYTES;
        /* Before it can be seen at the source. */
        trail_read_begins(&pager->trail, fetch->memory->index, fetch->slice, fetch->mask);
        r = reader_submit(pager->reader, fetch);
        if (r < 0) {
                trail_read_ends(&pager->trail, fetch->memory->index, fetch->slice, fetch->mask);
                fetch->read.result = r;
                serve_fetched(pager, fetch);
                (void) fetch_free(fetch);
                return;
        }
        DL_APPEND(pager->reads, fetch);
        if (demand)
                order_depth_demand(&source->background);
        else
                (*background_count(fetch))++;
        fetch->background = !demand;
}

/* What a read has cost is what the next ones are decided by. */
static void note_cost(struct fetch *fetch) {
        uint64_t took_us = clock_now_us() - fetch->begun_us;
        struct source *source = fetch->source;
        unsigned n = fetch->read.length / (uint32_t) PB_PAGE_BYTES;

        if (fetch->background)
                (*background_count(fetch))--;
        if (fetch->abandoned || fetch->read.result <= 0)
                return;
        order_link_note(&source->link, n, took_us);
        if (fetch->background && order_is_short(n))
                order_short_note(&source->background_short, fetch->begun_us, took_us, ORDER_DEPTH_MAX);
        else if (fetch->background)
                order_depth_note(&source->background, n, took_us, ORDER_DEPTH_MAX);
}

static enum reader_room fetch_room(const struct pager *pager, const struct fetch *fetch) {
        const struct source *source = source_leaf(fetch->memory->source, fetch_offset(fetch));

        bool demand = class_is_demand(fetch->class);

        if (!demand && !background_has_room(source, fetch))
                return READER_FULL;
        return reader_get_room(pager->reader, source, demand);
}

static bool has_room(struct fetch *fetch, void *data) {
        return fetch_room(data, fetch) == READER_HAS_ROOM;
}

static bool is_stuck(struct fetch *fetch, void *data) {
        return fetch_room(data, fetch) == READER_STUCK;
}

bool pager_start_reads(struct pager *pager) {
        struct fetch *fetch;
        bool any = false;

        while (!reader_is_full(pager->reader) && (fetch = fetch_dequeue(&pager->fetch_queue, has_room, pager))) {
                pager_start_read(pager, fetch);
                any = true;
        }
        if (!any && !reader_is_full(pager->reader) && (fetch = fetch_dequeue(&pager->fetch_queue, is_stuck, pager))) {
                /* The source has not answered a single one of the last reads in time, and holds every buffer. Who waits
                 * is told rather than left waiting for a buffer. */
                if (slice_start_fetch(fetch->memory, fetch->slice, fetch, false, 0))
                        serve_late(pager, fetch);
                (void) fetch_free(fetch);
                any = true;
        }
        reader_flush(pager->reader);
        if (any)
                KILL_POINT("read-sent");
        return any;
}

/* What was in page cache before we read is somebody's; what we brought there is dropped, or a restore would need the
 * guest's memory twice. */
static void drop_behind(const struct fetch *fetch) {
        struct source *source = fetch->source;
        uint64_t mask = fetch->cold_mask;

        while (mask) {
                unsigned first, count;

                mask_first_run(mask, &first, &count);
                source->ops->drop_behind(source, fetch_offset(fetch) + first * PB_PAGE_BYTES, count * PB_PAGE_BYTES);
                mask &= ~slice_mask(first, first + count - 1);
        }
}

bool pager_reap_reads(struct pager *pager) {
        struct fetch *fetch;
        bool any = false;

        while ((fetch = reader_reap(pager->reader))) {
                any = true;
                KILL_POINT("read-done");
                DL_DELETE(pager->reads, fetch);
                if (!fetch->abandoned)
                        trail_read_ends(&pager->trail, fetch->memory->index, fetch->slice, fetch->mask);
                note_cost(fetch);
                serve_fetched(pager, fetch); /* an abandoned one finds no page with its ticket */
                if (fetch->read.result > 0)
                        drop_behind(fetch);
                reader_release(pager->reader, fetch);
                (void) fetch_free(fetch);
        }
        return any;
}

void pager_retry_later(struct pager *pager, const struct fetch *failed, uint64_t mask, uint64_t due_us) {
        struct fetch *fetch = fetch_new(&pager->fetch_queue, failed->memory, failed->slice, mask, failed->class,
                                        failed->attempt + 1);

        if (!fetch) {
                publish_failure(failed->memory, failed->slice, mask, -ENOMEM);
                return;
        }
        /* Queued meanwhile: an overwrite or a discard needs no source and takes the pages over. */
        fetch->since_us = failed->since_us;
        fetch->deadline_us = due_us;
        DL_APPEND(pager->retries, fetch);
        slice_queue(failed->memory, failed->slice, mask, fetch, false);
}

bool pager_check_reads(struct pager *pager, uint64_t now_us, uint64_t *next_us) {
        struct fetch *fetch, *next_fetch;
        bool any = false;

        DL_FOREACH_SAFE (pager->reads, fetch, next_fetch) {
                if (fetch->abandoned)
                        continue;
                if (now_us >= fetch->deadline_us) {
                        if (fetch->background) {
                                fetch->background = false;
                                (*background_count(fetch))--; /* a hung one must not keep others from being tried */
                        }
                        reader_abandon(pager->reader, fetch);
                        trail_read_ends(&pager->trail, fetch->memory->index, fetch->slice, fetch->mask);
                        serve_late(pager, fetch);
                        any = true; /* there is room for another read */
                } else
                        *next_us = min_u64(*next_us, fetch->deadline_us);
        }
        DL_FOREACH_SAFE (pager->retries, fetch, next_fetch) {
                if (now_us < fetch->deadline_us) {
                        *next_us = min_u64(*next_us, fetch->deadline_us);
                        continue;
                }
                DL_DELETE(pager->retries, fetch);
                fetch_enqueue(fetch);
                any = true;
        }
        return any;
}

static struct fetch *volatile reads_left;

void pager_drop_reads(struct pager *pager) {
        struct fetch *fetch, *next;

        DL_FOREACH_SAFE (pager->retries, fetch, next) {
                DL_DELETE(pager->retries, fetch);
                (void) fetch_free(fetch);
        }
        /* Reads under way keep their fetch: an engine may still write into it. The process ends now; a leak checker shall
         * find them. */
        reads_left = pager->reads;
}
