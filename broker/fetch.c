/* SPDX-License-Identifier: MIT */
#include "broker/fetch.h"

#include <stdlib.h>
#include <utlist.h>

#include "broker/checksums.h"
#include "broker/memory.h"
#include "common/alloc.h"
#include "common/cleanup.h"
#include "common/macro.h"

void fetch_queue_init(struct fetch_queue *queue, struct driver *driver) {
        *queue = (struct fetch_queue) { .driver = driver };
        (void) pthread_mutex_init(&queue->lock, NULL);
}

void fetch_queue_done(struct fetch_queue *queue) {
        for (struct fetch *fetch; (fetch = fetch_dequeue(queue, NULL, NULL));)
                (void) fetch_free(fetch);
        (void) pthread_mutex_destroy(&queue->lock);
}

struct fetch *fetch_new(struct fetch_queue *queue, struct memory *memory, uint64_t slice, uint64_t mask,
                        enum request_class class, unsigned attempt) {
        struct fetch *fetch = alloc_zeroed(sizeof *fetch);

        if (!fetch)
                return NULL;
        *fetch = (struct fetch) {
                .queue = queue,
                .memory = memory,
                .slice = slice,
                .class = class,
                .attempt = attempt,
        };
        fetch_set_mask(fetch, mask);
        (void) pthread_mutex_lock(&queue->lock);
        /* 0 is "no ticket". A ticket could only be mistaken for an older one after 2^32 fetches during one read. */
        if (++queue->last_ticket == 0)
                queue->last_ticket = 1;
        fetch->ticket = queue->last_ticket;
        (void) pthread_mutex_unlock(&queue->lock);
        return fetch;
}

void fetch_set_mask(struct fetch *fetch, uint64_t mask) {
        const struct memory *memory = fetch->memory;

        fetch->mask = mask;
        fetch->read_mask = memory && memory->checksums ? checksums_widen(memory, fetch->slice, mask) : mask;
}

struct fetch *fetch_free(struct fetch *fetch) {
        free(fetch);
        return NULL;
}

struct retry_state fetch_retry_state(const struct fetch *fetch) {
        return (struct retry_state) { .attempt = fetch->attempt, .since_us = fetch->since_us, .class = fetch->class };
}

uint64_t fetch_first_page(const struct fetch *fetch) {
        return fetch->slice * SLICE_PAGES + (unsigned) __builtin_ctzll(fetch->read_mask);
}

unsigned fetch_n_pages(const struct fetch *fetch) {
        return 64 - (unsigned) __builtin_clzll(fetch->read_mask) - (unsigned) __builtin_ctzll(fetch->read_mask);
}

static struct fetch_lane *find_lane(struct fetch_queue *queue, enum request_class class, uint64_t owner) {
        struct fetch_lane *lane;

        DL_FOREACH (queue->lanes[class], lane)
                if (lane->owner == owner)
                        return lane;
        lane = calloc(1, sizeof *lane);
        if (lane) {
                lane->class = class;
                lane->owner = owner;
        } else {
                lane = &queue->spare[class];
                lane->class = class;
                lane->owner = UINT64_MAX;
                if (lane->fetches)
                        return lane;
        }
        DL_APPEND(queue->lanes[class], lane);
        return lane;
}

static void queue_add(struct fetch_queue *queue, struct fetch *fetch) {
        fetch->lane = find_lane(queue, fetch->class, fetch->owner);
        DL_APPEND(fetch->lane->fetches, fetch);
}

static void queue_remove(struct fetch_queue *queue, struct fetch *fetch) {
        struct fetch_lane *lane = PTR_TAKE(fetch->lane);

        DL_DELETE(lane->fetches, fetch);
        if (lane->fetches)
                return;
        /* Only the last of several has no next: the analyzer does not know utlist. */
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        DL_DELETE(queue->lanes[lane->class], lane);
        if (lane != &queue->spare[lane->class])
                free(lane);
}

void fetch_enqueue(struct fetch *fetch) {
        struct fetch_queue *queue = fetch->queue;

        (void) pthread_mutex_lock(&queue->lock);
        queue_add(queue, fetch);
        queue->n_queued++;
        (void) pthread_mutex_unlock(&queue->lock);
        driver_signal(queue->driver);
}

void fetch_raise(struct fetch *fetch, enum request_class class, uint64_t owner) {
        struct fetch_queue *queue = fetch->queue;

        (void) pthread_mutex_lock(&queue->lock);
        if (fetch->class > class) {
                bool queued = fetch->lane;

                if (queued)
                        queue_remove(queue, fetch);
                fetch->class = class;
                fetch->owner = owner;
                if (queued)
                        queue_add(queue, fetch);
        }
        (void) pthread_mutex_unlock(&queue->lock);
}

/* The first that may be read now, of the lane whose turn it is. */
static struct fetch *find_next(struct fetch_queue *queue, unsigned class, fetch_accept *accept, void *data) {
        struct fetch_lane *lane;
        struct fetch *fetch;

        DL_FOREACH (queue->lanes[class], lane)
                DL_FOREACH (lane->fetches, fetch)
                        if (!accept || accept(fetch, data))
                                return fetch;
        return NULL;
}

struct fetch *fetch_dequeue(struct fetch_queue *queue, fetch_accept *accept, void *data) {
        struct fetch *next[N_CLASSES] = {}, *fetch = NULL;
        bool waiting[N_CLASSES] = {};
        enum request_class class;

        (void) pthread_mutex_lock(&queue->lock);
        /* Background is looked at only if there is no demand: most of the time there is much of it. */
        for (unsigned pair = 0; pair < N_CLASSES && !fetch; pair += 2)
                for (unsigned i = pair; i < pair + 2; i++) {
                        next[i] = find_next(queue, i, accept, data);
                        waiting[i] = next[i];
                        fetch = next[i] ?: fetch;
                }
        class = order_pick(&queue->turns, waiting);
        if (class < N_CLASSES) {
                struct fetch_lane *lane;

                order_picked(&queue->turns, class, waiting);
                fetch = next[class];
                lane = fetch->lane;
                /* Its turn is over, if it has more. */
                DL_DELETE(queue->lanes[class], lane);
                DL_APPEND(queue->lanes[class], lane);
                queue_remove(queue, fetch);
                queue->n_queued--;
        }
        (void) pthread_mutex_unlock(&queue->lock);
        return fetch;
}

unsigned fetch_queue_count(struct fetch_queue *queue) {
        unsigned n;

        (void) pthread_mutex_lock(&queue->lock);
        n = queue->n_queued;
        (void) pthread_mutex_unlock(&queue->lock);
        return n;
}

bool fetch_queue_is_empty(struct fetch_queue *queue) {
        return fetch_queue_count(queue) == 0;
}
