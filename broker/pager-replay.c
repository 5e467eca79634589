/* SPDX-License-Identifier: MIT */
/* The replay of a working set: prefetches, a few requests under way at any time so that a far source is kept busy. It goes
 * before the fill and behind everybody who stands still. */
#include <inttypes.h>
#include <string.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/replay.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

#define REPLAY_WINDOW 16u

static struct pager *pager_of(struct request *request) {
        struct replay_slot *slot = CONTAINER_OF(request, struct replay_slot, request);

        return slot->pager;
}

static void count_done(struct pager *pager, uint64_t pages) {
        atomic_fetch_add_explicit(&pager->replay_done, pages, memory_order_relaxed);
}

static void replay_over(struct pager *pager) {
        pager->replay = replay_free(pager->replay);
        atomic_fetch_add_explicit(&pager->replays_ended, 1, memory_order_release);
        if (pager->events.replayed)
                pager->events.replayed(pager->events.data);
}

static void replay_end(struct pager *pager) {
        uint64_t took_us = clock_now_us() - pager->replay->began_us;

        log_info("working set: replayed %" PRIu64 " pages in %" PRIu64 " runs within %" PRIu64 ".%03u ms",
                 pager->replay->n_pages, pager->replay->n_runs, took_us / 1000, (unsigned) (took_us % 1000));
        replay_over(pager);
}

static void replay_complete(struct request *request, int result) {
        struct pager *pager = pager_of(request);

        for (unsigned i = 0; i < request->n_ranges && !request->forgotten; i++)
                count_done(pager, request->ranges[i].count);
        request_unlist(request);
        request_done(request);
        CONTAINER_OF(request, struct replay_slot, request)->active = false;
        if (--pager->n_replays == 0 && pager->replay && pager->replay->next == pager->replay->n_runs)
                replay_end(pager);
}

static void replay_more(struct request *request) {
        request_list(&pager_of(request)->replay_ready, request);
}

static void replay_forgotten(struct request *request) {
        replay_complete(request, 0);
}

static const struct request_ops replay_ops = {
        .complete = replay_complete,
        .more = replay_more,
        .forgotten = replay_forgotten,
};

/* Puts the next runs into a slot that is free. */
static bool replay_start_slot(struct pager *pager, struct replay_slot *slot) {
        struct replay *replay = pager->replay;
        struct request *request = &slot->request;

        memset(request, 0, sizeof *request);
        for (; request->n_ranges < PB_SLOT_RANGES && replay->next < replay->n_runs; replay->next++) {
                const struct replay_run *run = &replay->runs[replay->next];

                /* It has left since the plan was made. What is asked for already is taken over by its clearing. */
                if (atomic_load_explicit(&run->memory->hidden, memory_order_relaxed)) {
                        count_done(pager, run->count);
                        continue;
                }
                request->ranges[request->n_ranges++] =
                        (struct page_range) { .memory = run->memory, .first = run->first, .count = run->count };
        }
        if (request->n_ranges == 0)
                return false;
        request->best_effort = true;
        if (request_init(request, &pager->driver, CLASS_PREFETCH, request_count_slices(request, REPLAY_WINDOW), &replay_ops) < 0)
                return false; /* these runs are left out: it is a kindness, not a promise */
        slot->pager = pager;
        slot->active = true;
        pager->n_replays++;
        request_list(&pager->replay_ready, request);
        return true;
}

static void replay_start_slots(struct pager *pager) {
        for (unsigned i = 0; i < REPLAY_SLOTS && pager->replay->next < pager->replay->n_runs; i++)
                if (!pager->replay_slots[i].active)
                        (void) replay_start_slot(pager, &pager->replay_slots[i]);
}

bool pager_replay_step(struct pager *pager) {
        struct request *request;
        enum request_step step;

        if (!pager->replay)
                return false;
        replay_start_slots(pager);
        request = pager->replay_ready;
        if (!request) {
                if (pager->n_replays == 0 && pager->replay->next == pager->replay->n_runs)
                        replay_end(pager);
                return false;
        }
        request_unlist(request);
        step = request_issue(pager, request, 4);
        if (step == REQUEST_MORE)
                replay_more(request);
        else if (step == REQUEST_DECIDED)
                replay_complete(request, 0);
        return true;
}

void pager_replay_begin(struct pager *pager, struct replay *replay) {
        pager_replay_stop(pager);
        pager->replay = replay;
        replay->began_us = clock_now_us();
        atomic_store_explicit(&pager->replay_done, 0, memory_order_relaxed);
        atomic_store_explicit(&pager->replay_total, replay->n_pages, memory_order_relaxed);
        log_info("working set: replaying %" PRIu64 " pages in %" PRIu64 " runs", replay->n_pages, replay->n_runs);
}

/* What is under way comes to its end; nothing new is begun. */
void pager_replay_stop(struct pager *pager) {
        if (pager->replay)
                replay_over(pager);
        for (unsigned i = 0; i < REPLAY_SLOTS; i++) {
                struct request *request = &pager->replay_slots[i].request;

                if (!pager->replay_slots[i].active)
                        continue;
                request_unlist(request);
                if (request_forget(request))
                        replay_complete(request, 0);
        }
}
