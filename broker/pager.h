/* SPDX-License-Identifier: MIT */
/*
 * The pager: one thread that takes linked clients' requests, drives them, starts and ends cold reads, fills in the
 * background, and announces completion. Other threads reach it through its driver (requests) and through commands.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/fetch.h"
#include "broker/order-background.h"
#include "broker/reader.h"
#include "broker/request.h"
#include "broker/trail.h"
#include "common/log.h"
#include "protocol/message.h"

struct memory;
struct recorder;
struct replay;
struct session;

/* What becomes of a thread that waits through userfaultfd for a page that cannot be had. */
enum on_error {
        ON_ERROR_WAIT,   /* it goes on waiting */
        ON_ERROR_POISON, /* it gets SIGBUS, a KVM guest a machine check */
        ON_ERROR_STOP,   /* the supervisor is told to stop the VM */
};

/* Ranges that pager_prefetch() has under way. */
#define PAGER_PREFETCHES_MAX 16u

struct pager_options {
        struct retry_policy retry;   /* of failed reads */
        uint64_t source_timeout_us;  /* of one read */
        uint64_t discard_timeout_us; /* of one punch */
        uint64_t spin_us;            /* before the pager sleeps */
        unsigned depth;              /* cold reads at once */
        unsigned around;             /* pages that a cold read may take along; 1: none */
        enum reader_kind reader;
        bool fill;
        uint64_t fill_rate; /* bytes per second; 0: no limit */
        unsigned fill_share; /* per cent of a source's time that the background gets while somebody stands still */
        enum on_error on_error;
};

#define PAGER_OPTIONS_DEFAULT                              \
        ((struct pager_options) {                          \
                .retry = RETRY_POLICY_DEFAULT,             \
                .source_timeout_us = 30 * 1000000ull,      \
                .discard_timeout_us = 5 * 1000000ull,      \
                .spin_us = 50,                             \
                .depth = 32,                               \
                .around = ORDER_AROUND_MAX,                \
                .reader = READER_AUTO,                     \
                .fill = true,                              \
                .fill_share = 50,                          \
        })

struct pager_events {
        /* On the pager's thread: the control thread is to be told. `reason` NULL: closed as asked. The session is the
         * callee's from then on. */
        void (*session_closed)(void *data, struct session *session, const char *reason);
        /* Every page of every memory is present. */
        void (*completed)(void *data);
        /* From any thread that serves; may be NULL. Not more often than the log: `left_out` are those that were not told. */
        void (*poisoned)(void *data, const struct memory *memory, uint64_t slice, uint64_t mask, int error,
                         uint32_t left_out);
        void (*source_lost)(void *data, const struct memory *memory);
        /* From any thread, as often as it happens: ON_ERROR_STOP, and a peer waits for this page. May be NULL. */
        void (*page_lost)(void *data, struct memory *memory, uint64_t page);
        /* On a peer's thread: it is served no longer. May be NULL. */
        void (*peer_ended)(void *data);
        /* On the pager's thread: a replay has come to its end, or has been ended. May be NULL. */
        void (*replayed)(void *data);
        /* After pager_clear(): all zeros, its pages given back. */
        void (*memory_cleared)(void *data, struct memory *memory, int result);
        /* On the pager's thread: the memory is complete, and what read its source, if that was a process, has ended with
         * everything done. May be NULL. */
        void (*source_done)(void *data, const struct memory *memory);
        void *data;
};

struct pager;

/* What a source that has returned names. */
struct pager_memory {
        struct pager *pager;
        atomic_bool returned;
};

/* Requests of a replay under way at once, of a few runs each. */
#define REPLAY_SLOTS 4u

struct replay_slot {
        struct request request;
        struct pager *pager;
        bool active;
};

/* Slices noted at once: 16 MiB. */
#define AROUND_SLICES 64u

struct around {
        struct memory *memory;
        uint64_t slice;
};

struct own_prefetch;
struct punch;
struct punch_worker;
struct pager_command;

struct pager {
        struct pager_options options;
        struct pager_events events;
        struct driver driver;
        struct fetch_queue fetch_queue;
        struct reader *reader;
        struct fetch *reads; /* under way */
        struct fetch *retries; /* not due yet */
        int epoll;
        pthread_t thread;
        bool running;
        atomic_uint_fast64_t turns; /* written by its thread alone */

        struct memory *memories[PB_MEMORIES_MAX]; /* fixed before the thread starts */
        struct pager_memory entries[PB_MEMORIES_MAX];
        unsigned n_memories;
        atomic_bool source_returned; /* of some memory */

        struct session *sessions;
        struct session *next_session; /* whose turn it is */
        unsigned n_sessions;
        struct request *prefetches; /* ready to be issued */
        struct request *clearings;  /* the same */

        struct request fill;
        struct request *fill_ready;
        bool fill_on, fill_active;
        bool retired; /* everything is present, and nothing can read any more */
        bool fill_wanted; /* as the command line or an admin has it; off by itself when all is there */
        unsigned fill_memory;
        uint64_t fill_again_us;
        atomic_uint_fast64_t fill_rate;
        struct order_rate fill_limit; /* which that became at the last step */

        struct own_prefetch *own_prefetches;
        atomic_uint n_own_prefetches;

        struct around around[AROUND_SLICES]; /* a ring; free-running indices */
        uint64_t around_next, around_done;
        uint64_t background_us;    /* when a background read that waits for its share may begin */
        struct order_share share;  /* of this thread's time */
        uint64_t n_faults;         /* of userfaultfds, at its last look */

        struct replay *replay; /* NULL: none */
        struct replay_slot replay_slots[REPLAY_SLOTS];
        struct request *replay_ready;
        unsigned n_replays; /* slots that are active */

        struct recorder *recorder; /* the working set's */

        struct punch_worker *puncher;
        struct punch *punches; /* waited for */

        pthread_mutex_t command_lock;
        struct pager_command *commands;
        pthread_cond_t synced; /* with command_lock */
        unsigned n_syncs_asked, n_syncs;
        atomic_bool filled; /* a memory may have become complete */
        bool source_ended;  /* what reads some source may have ended */

        struct trail trail;
        struct log_limit poison_limit;
        atomic_uint_fast64_t bytes_fetched;
        atomic_uint_fast64_t faults_linked;
        atomic_uint_fast64_t faults_peer;
        atomic_bool fill_on_now; /* for the counters */
        atomic_uint replays_asked, replays_ended; /* equal: none is under way */
        atomic_uint_fast64_t replay_total, replay_done; /* pages of the latest one */
};

int pager_new(struct pager **ret, const struct pager_options *options, const struct pager_events *events);
/* Stops the thread first. Sessions must have been closed. */
struct pager *pager_free(struct pager *pager);

/* False while a punch hangs: its thread uses pager and memories. Waits for a moment. Accepts NULL. */
bool pager_can_be_freed(struct pager *pager);

/* Before pager_start(). The memory, which has its source, stays the caller's. */
int pager_add_memory(struct pager *pager, struct memory *memory);
int pager_start(struct pager *pager);
void pager_stop(struct pager *pager);

/* From the control thread. */
void pager_add_session(struct pager *pager, struct session *session);
void pager_close_session(struct pager *pager, uint64_t session_id);
/* Waits until the pager has carried out every command given before. It must run. */
void pager_sync(struct pager *pager);
void pager_set_fill(struct pager *pager, bool on);
/* Bytes per second of the source's data; 0: no limit. */
void pager_set_fill_rate(struct pager *pager, uint64_t rate);
uint64_t pager_get_fill_rate(const struct pager *pager);
/* A hint of the control thread's own. False: PAGER_PREFETCHES_MAX are under way. */
bool pager_prefetch(struct pager *pager, struct memory *memory, uint64_t first, uint64_t n);
/* There may be more to fill than at its last look. From any thread. */
void pager_fill_again(struct pager *pager);
/* There is more to be filled than there was: the fill goes on if it was wanted, though it had come to its end. */
void pager_fill_anew(struct pager *pager);
/* A memory that nobody uses: all zeros, pages given back. Ends with events.memory_cleared. */
void pager_clear(struct pager *pager, struct memory *memory);
/* Takes the replay; one that runs is ended. */
void pager_set_replay(struct pager *pager, struct replay *replay);
/* From the call of pager_set_replay() until it has come to its end. */
bool pager_is_replaying(const struct pager *pager);
/* How often it has been round, and: go round once more. */
uint64_t pager_turns(const struct pager *pager);
void pager_poke(struct pager *pager);
/* Are all memories complete? */
bool pager_is_complete(const struct pager *pager);

/* From any thread. */
void pager_memory_filled(struct pager *pager);
/*
 * Poisoned pages of [first, first + n) become absent: peers that wait for one and the fill ask again, linked clients when
 * they want to. -ESTALE: the source is not what it was, and nothing was done.
 */
int pager_heal(struct pager *pager, struct memory *memory, uint64_t first, uint64_t n, uint64_t *ret_healed);
struct driver *pager_driver(struct pager *pager);
struct memory *pager_get_memory(struct pager *pager, uint32_t index); /* NULL if there is none */

/* On the pager's thread. */
struct request **pager_prefetch_list(struct pager *pager);
void pager_count_fault(struct pager *pager);
/* Another read, due at `due_us`, for pages of the failed one that the caller owns. */
void pager_retry_later(struct pager *pager, const struct fetch *failed, uint64_t mask, uint64_t due_us);
void pager_punch(struct pager *pager, uint64_t session_id, uint32_t slot, uint32_t sequence,
                 const struct page_range *ranges, unsigned n_ranges);
