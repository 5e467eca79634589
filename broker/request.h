/* SPDX-License-Identifier: MIT */
/*
 * A request: pages that somebody wants, from the moment it is accepted to its outcome. Linked clients' slots, peers'
 * faults, prefetches and the background fill are all requests; what differs is the class and what completion does.
 *
 * A request is driven by one thread, its driver's: that thread issues it slice by slice and completes it. Any thread
 * may satisfy its waits; the one that satisfies the last awaited one of a parked request puts it into the driver's
 * inbox, exactly once per parking, and nobody else touches it then, so it needs no reference count (request.c).
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/slice.h"
#include "protocol/message.h"
#include "protocol/ring.h"

struct memory;
struct pager;
struct request;

enum request_class {
        CLASS_VCPU,     /* userfaultfd: a vCPU or the VMM stands still */
        CLASS_DEVICE,   /* a linked client's demand */
        CLASS_PREFETCH, /* somebody's hint */
        CLASS_FILL,     /* background */
        N_CLASSES,
};

static inline bool class_is_demand(enum request_class class) {
        return class <= CLASS_DEVICE;
}

/* The thread that drives requests: the pager, or a peer's thread. */
struct driver {
        pthread_mutex_t lock;
        struct request *head, *tail; /* inbox */
        int eventfd;                 /* never shared with a client */
        bool signalled;
};

int driver_init(struct driver *driver);
void driver_done(struct driver *driver);
void driver_enter(struct driver *driver); /* the calling thread is this driver's from now on */
bool driver_is_current(const struct driver *driver);
void driver_push(struct driver *driver, struct request *request);
void driver_signal(struct driver *driver);
/* Takes the whole inbox; follow `inbox_next`. */
struct request *driver_take(struct driver *driver);

/* Who wants something, for the record. Lives as long as its requests. */
struct request_origin {
        uint64_t key; /* not 0, and nobody else's */
        uint32_t id;  /* of the session or the userfaultfd */
        char name[PB_NAME_SIZE];
};

struct page_range {
        struct memory *memory;
        uint64_t first;
        uint64_t count; /* at least 1 */
        bool overwrite;
};

#define REQUEST_WAITS_INLINE 2

struct request {
        struct driver *driver;
        enum request_class class;
        const struct request_ops *ops;
        const struct request_origin *origin; /* of a demand; else NULL */

        struct page_range ranges[PB_SLOT_RANGES];
        unsigned n_ranges;

        unsigned range;  /* cursor: the next page to issue is */
        uint64_t done;   /* ranges[range].first + done */

        unsigned window; /* slices in flight at most */
        struct wait *waits;
        struct wait inline_waits[REQUEST_WAITS_INLINE];

        atomic_long outstanding;
        long parked_at; /* the driver's */
        bool parked;    /* the driver's */
        atomic_int result;
        unsigned piece;   /* pages that are issued together; 0: as many as there are in a slice */
        bool best_effort; /* hints, fill: a page that does not come is left out */
        bool forgotten; /* its owner is gone: frees itself, completes nothing */

        struct request *inbox_next;
        struct request **list; /* of its owner: what is ready to be issued; NULL while it is in none */
        struct request *prev, *next;
};

/* Called on the driver's thread. */
struct request_ops {
        void (*complete)(struct request *request, int result); /* decided; it is the owner's again, to be freed */
        void (*more)(struct request *request);                 /* came back with more to issue: list it */
        void (*forgotten)(struct request *request);            /* came back after request_forget(): to be freed */
};

void request_list(struct request **list, struct request *request);
void request_unlist(struct request *request); /* no-op if it is in none */

/* Prepares the common part; ranges are the caller's to fill in before. `window` 1 to REQUEST_WINDOW_MAX. -ENOMEM */
int request_init(struct request *request, struct driver *driver, enum request_class class, unsigned window,
                 const struct request_ops *ops);
void request_done(struct request *request); /* frees what request_init() took */

#define REQUEST_WINDOW_MAX 64u

enum request_step {
        REQUEST_MORE,    /* issue again */
        REQUEST_PARKED,  /* comes back through the inbox */
        REQUEST_DECIDED, /* every page present, or failed: request_finish() */
};

/* Issues the next `max_slices` slices. Only on the driver's thread; after REQUEST_PARKED the request belongs to the
 * waits and must not be touched until the inbox gives it back. */
enum request_step request_issue(struct pager *pager, struct request *request, unsigned max_slices);

/* A request that the inbox gave back: calls what is due of its ops. */
void request_resume(struct request *request);

/* Slices that the ranges touch, at most `max`. */
unsigned request_count_slices(const struct request *request, unsigned max);

int request_result(struct request *request);

/* The owner is gone: takes all waits back. True if the caller may free the request now; else ops->forgotten() is called
 * later. */
bool request_forget(struct request *request);

/* Hands satisfied waits back to their requests. Takes the list that slice_settle() returned. */
void waits_done(struct wait *list);
