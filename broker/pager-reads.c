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

/* As it was made: an abandoned one has lost its pages. */
static unsigned read_pages(const struct fetch *fetch) {
        return fetch->read.length / (uint32_t) PB_PAGE_BYTES;
}

/* Past page cache if it has nothing of the read. Dropped afterwards all the same: the look for a page that was not there has
 * begun to bring it. After a failure as ever: a disk may take only reads of other sizes. */
static void choose_descriptor(struct fetch *fetch, struct source *source) {
        unsigned n = fetch_n_pages(fetch);

        fetch->read.fd = source->fd;
        fetch->cold_mask = source->ops->cold_mask(source, fetch_offset(fetch), n);
        if (source->direct_fd > 0 && fetch->attempt == 0 && fetch->cold_mask == slice_mask(0, n - 1))
                fetch->read.fd = source->direct_fd;
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
        choose_descriptor(fetch, source);
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
        fetch->demand = demand;
        fetch->background = !demand;
        if (demand)
                order_demand_begin(&source->background, now_us);
        else
                order_background_begin(&source->background, read_pages(fetch));
}

/* It is over, or nobody waits for it any more. Once. */
static void end_read(const struct pager *pager, struct fetch *fetch, bool good, uint64_t now_us) {
        struct order_background *background = &fetch->source->background;

        if (fetch->background)
                order_background_end(background, fetch->class, read_pages(fetch), good, now_us, now_us - fetch->begun_us,
                                     pager->options.fill_share);
        if (fetch->demand)
                order_demand_end(background, now_us);
        fetch->background = fetch->demand = false;
}

/* What a read has cost is what the next ones are decided by. */
static void note_cost(const struct pager *pager, struct fetch *fetch) {
        uint64_t now_us = clock_now_us();
        bool good = !fetch->abandoned && fetch->read.result > 0;

        if (good)
                order_link_note(&fetch->source->link, read_pages(fetch), now_us - fetch->begun_us);
        end_read(pager, fetch, good, now_us);
}

/* For a look through the queue. */
struct start {
        struct pager *pager;
        uint64_t now_us;
};

static enum reader_room fetch_room(const struct start *start, const struct fetch *fetch) {
        const struct source *source = source_leaf(fetch->memory->source, fetch_offset(fetch));
        bool demand = class_is_demand(fetch->class);

        if (!demand) {
                uint64_t due_us = order_background_due(&source->background, fetch->class, fetch_n_pages(fetch), start->now_us,
                                                       start->pager->options.fill_share);

                if (due_us) {
                        start->pager->background_us = min_u64(start->pager->background_us, due_us);
                        return READER_FULL;
                }
        }
        return reader_get_room(start->pager->reader, source, demand);
}

static bool has_room(struct fetch *fetch, void *data) {
        return fetch_room(data, fetch) == READER_HAS_ROOM;
}

static bool is_stuck(struct fetch *fetch, void *data) {
        return fetch_room(data, fetch) == READER_STUCK;
}

bool pager_start_reads(struct pager *pager) {
        struct start start = { pager, clock_now_us() };
        struct fetch *fetch;
        bool any = false;

        pager->background_us = USEC_INFINITY;
        while (!reader_is_full(pager->reader) && (fetch = fetch_dequeue(&pager->fetch_queue, has_room, &start))) {
                pager_start_read(pager, fetch);
                any = true;
        }
        if (!any && !reader_is_full(pager->reader) && (fetch = fetch_dequeue(&pager->fetch_queue, is_stuck, &start))) {
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
                note_cost(pager, fetch);
                /* The source has something to do again before these bytes are copied. */
                (void) pager_start_reads(pager);
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

        *next_us = min_u64(*next_us, pager->background_us);
        DL_FOREACH_SAFE (pager->reads, fetch, next_fetch) {
                if (fetch->abandoned)
                        continue;
                if (now_us >= fetch->deadline_us) {
                        end_read(pager, fetch, false, now_us); /* a hung one must not keep others from being tried */
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
