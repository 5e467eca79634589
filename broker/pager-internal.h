/* SPDX-License-Identifier: MIT */
/* What the files of the pager's thread share. */
#pragma once

#include "broker/pager.h"

/* pager-reads.c: cold reads. Each returns true if it did something. */
bool pager_start_reads(struct pager *pager);
bool pager_reap_reads(struct pager *pager);
/* Late reads and due retries. `*next_us` becomes when to look again, if that is sooner. */
bool pager_check_reads(struct pager *pager, uint64_t now_us, uint64_t *next_us);
void pager_drop_reads(struct pager *pager);

/* pager-complete.c */
void pager_check_filled(struct pager *pager);
void pager_retire(struct pager *pager);

/* pager-sources.c */
int pager_watch(struct pager *pager, int fd, uint32_t events, void *tag); /* pager.c */
int pager_add_source(struct pager *pager, struct source *source);
void pager_end_sources(struct pager *pager);

/* pager-heal.c */
void pager_source_returned(void *data); /* struct pager_memory; from any thread */
bool pager_heal_returned(struct pager *pager);

/* pager-prefetch.c */
void pager_add_prefetch(struct pager *pager, struct own_prefetch *prefetch); /* pager.c */
void pager_prefetch_begin(struct pager *pager, struct own_prefetch *prefetch);
void pager_prefetch_stop(struct pager *pager);

/* pager-fill.c */
bool pager_fill_step(struct pager *pager, uint64_t now_us);
void pager_fill_stop(struct pager *pager);
uint64_t pager_fill_next(const struct pager *pager, uint64_t now_us);

/* pager-around.c */

/* Pages of its slice that a read which is about to start takes along. Notes further slices for pager_around_step(). */
uint64_t pager_around(struct pager *pager, const struct fetch *fetch, const struct source *source);
bool pager_around_step(struct pager *pager);

/* pager-clear.c */
void pager_clear_begin(struct pager *pager, struct memory *memory);
bool pager_clear_step(struct pager *pager);
/* 0: under way, events.memory_cleared follows. */
int pager_punch_memory(struct pager *pager, const struct page_range *range);

/* pager-replay.c */
bool pager_replay_step(struct pager *pager);
void pager_replay_begin(struct pager *pager, struct replay *replay);
void pager_replay_stop(struct pager *pager);

/* punch.c: a thread of its own, because punching a hole takes the inode's lock, which a client can hold for ever. */
struct punch {
        struct punch *prev, *next; /* the pager's list */
        struct punch *todo_next;   /* the worker's */
        struct memory *cleared; /* not a session's: pager_clear() */
        uint64_t session_id;
        uint32_t slot, sequence;
        uint64_t deadline_us;
        bool answered; /* the deadline has passed: nobody waits */
        bool done;     /* atomic */
        int result;
        unsigned n_ranges;
        struct page_range ranges[PB_SLOT_RANGES];
};

int punch_worker_new(struct punch_worker **ret, struct driver *driver);
/* Frees it and returns true, unless it hangs. */
bool punch_worker_stop(struct punch_worker *worker);
void punch_worker_push(struct punch_worker *worker, struct punch *punch);
bool pager_check_punches(struct pager *pager, uint64_t now_us, uint64_t *next_us);
