/* SPDX-License-Identifier: MIT */
/*
 * Cold reads: what page cache did not have. A fetch is a run of pages of one slice that is going to be read into a
 * private buffer; the queue hands them out by class, the reader reads them, many at once.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/order.h"
#include "broker/request.h"
#include "broker/retry.h"
#include "broker/slice.h"
#include "broker/source.h"

struct memory;
struct reader;
struct source;

#define FETCH_PAGES_MAX SLICE_PAGES

struct fetch {
        struct fetch *prev, *next;             /* in the queue's class, or in the pager's list of reads or retries */
        struct fetch *slice_prev, *slice_next; /* in its slice while queued; under the shard's lock */
        struct fetch_queue *queue;
        struct memory *memory;
        uint64_t slice;
        uint64_t mask;  /* pages that were claimed for it */
        uint64_t read_mask; /* pages that are read: with checksums, whole blocks */
        uint32_t ticket;
        enum request_class class;
        uint64_t owner; /* whom it was begun for, as an origin's key; 0: nobody */
        struct fetch_lane *lane; /* that it waits in; under the queue's lock. NULL: not queued */
        unsigned attempt;
        uint64_t begun_us;    /* when this read was started */
        bool demand;          /* under way for somebody who stands still ... */
        bool background;      /* ... or for nobody; neither: not under way, or given up */
        uint64_t since_us;    /* when the first read of these pages was started; 0: not yet */
        uint64_t deadline_us; /* of the read under way; of a retry: when it is due */
        uint64_t cold_mask;   /* pages that the read brings into page cache */
        struct source *source; /* which the read was made from: the memory's, or a part of it */
        struct source_read read; /* its buffer is the reader's or the source's */
        bool abandoned;       /* its answer is late: its pages have another ticket, only the buffer is waited for */
};

/* What waits of one class for one client. Lanes take turns, so that a client with a thousand pages wanted stands behind its
 * own, not before the others'. */
struct fetch_lane {
        struct fetch_lane *prev, *next;
        enum request_class class;
        uint64_t owner;
        struct fetch *fetches;
};

struct fetch_queue {
        pthread_mutex_t lock; /* after a shard's lock */
        struct fetch_lane *lanes[N_CLASSES]; /* whose turn it is comes first; none is empty but for `spare` */
        struct fetch_lane spare[N_CLASSES];  /* for all, when there is no memory for another */
        struct order_turns turns;
        unsigned n_queued;
        uint32_t last_ticket;
        struct driver *driver; /* to be told that there is work */
};

void fetch_queue_init(struct fetch_queue *queue, struct driver *driver);
void fetch_queue_done(struct fetch_queue *queue);

/* A fetch for pages of `slice` that the caller owns (installing). NULL without memory. */
struct fetch *fetch_new(struct fetch_queue *queue, struct memory *memory, uint64_t slice, uint64_t mask,
                        enum request_class class, unsigned attempt);
/* The pages it is for; what is read follows from them. */
void fetch_set_mask(struct fetch *fetch, uint64_t mask);
struct fetch *fetch_free(struct fetch *fetch);

/* For retry.h. */
struct retry_state fetch_retry_state(const struct fetch *fetch);

/* First page and number of pages of the read. */
uint64_t fetch_first_page(const struct fetch *fetch);
unsigned fetch_n_pages(const struct fetch *fetch);

/* Into the queue; with the shard's lock, to a higher class. */
void fetch_enqueue(struct fetch *fetch);
void fetch_raise(struct fetch *fetch, enum request_class class, uint64_t owner);

typedef bool fetch_accept(struct fetch *fetch, void *data);

/* The next fetch by class and turn (order.h) that `accept` (NULL: any) takes; who is not taken keeps its place. NULL if
 * there is none. */
struct fetch *fetch_dequeue(struct fetch_queue *queue, fetch_accept *accept, void *data);
bool fetch_queue_is_empty(struct fetch_queue *queue);
unsigned fetch_queue_count(struct fetch_queue *queue);
