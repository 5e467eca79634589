/* SPDX-License-Identifier: MIT */
/*
 * A linked client's session as the pager sees it: takes requests out of the ring, drives them, writes their outcomes.
 * Only the pager's thread touches it between pager_add_session() and its release.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/request.h"
#include "protocol/message.h"
#include "protocol/ring.h"
#include "protocol/session-state.h"

struct pager;
struct session_request;
struct tally;

/* What one client can have in flight at once, and so make the broker hold; what is over it waits for its own turn. One
 * request is always let through. */
struct session_limits {
        unsigned requests; /* at most the ring's slots, about 0.6 KiB each */
        unsigned slices;   /* of 64 pages, about 0.6 KiB each with their reads */
};
#define SESSION_LIMITS_DEFAULT ((struct session_limits) { .requests = PB_RING_SLOTS, .slices = 1024 })
/* What one request needs at most. */
#define SESSION_SLICES_MIN 16u

/* For who looks on; of the same moment only nearly. */
struct session_usage {
        unsigned requests;  /* under way */
        unsigned slices;    /* these have in flight, at most */
        unsigned waiting;   /* requests that wait because of the limits */
        uint64_t held_back; /* so many have waited */
};
/* Prefetches are answered before they are done: so many may be under way. */
#define SESSION_PREFETCHES_MAX 32u

struct session {
        struct pager *pager;
        uint64_t id;
        enum pb_role role;
        char name[PB_NAME_SIZE];
        struct request_origin origin;
        struct tally *tally; /* one reference, released with the session; NULL: a test's */

        struct pb_ring *ring; /* the client writes here too, at any time */
        struct pb_session_state *state;
        int doorbell;   /* we never read or write it: a client can clear O_NONBLOCK */
        int completion; /* our end of the completion socket */

        struct session_request *slots[PB_RING_SLOTS]; /* what is under way in each slot */
        struct request *ready;     /* demand, to be issued */
        struct request *backlog;   /* accepted, not started */
        struct session_request *prefetches;
        unsigned n_prefetches;
        struct session_limits limits;
        /* Written by the pager's thread alone. */
        atomic_uint n_started, n_backlog;
        atomic_uint n_waits;       /* slices charged; at most as limited, or one request's */
        atomic_uint_fast64_t n_held_back;
        bool owns_maps;            /* not a test's */
        bool announce;             /* a byte on the completion socket is due */
        bool closed;
        const char *violation;     /* why the pager wants it closed */

        struct session *prev, *next; /* the pager's */
        atomic_uint_fast64_t faults; /* demand requests that found an absent page */
};

/* Makes ring, state, doorbell and completion socket. `ring`: one that the client had before, checked, taken in any case; -1: a new
 * one. `ret_fds`: what the client gets: ring, state, doorbell, its end of the completion socket; the caller's to send
 * and close. */
int session_new(struct session **ret, uint64_t id, enum pb_role role, const char *name, uint64_t epoch, int ring,
                int ret_fds[4]);
/* Over parts that exist already (tests map each object once for both sides). */
int session_new_from_parts(struct session **ret, uint64_t id, enum pb_role role, const char *name, struct pb_ring *ring,
                           struct pb_session_state *state, int doorbell, int completion, uint64_t epoch);
struct session *session_free(struct session *session);

/* From any thread, as long as it lives. */
void session_get_usage(const struct session *session, struct session_usage *ret);

/* session-log.c. Of a session that is being closed: requests that have no outcome yet. */
void session_log_held_back(const struct session *session);
void session_log_left(const struct session *session, const struct request *const requests[], unsigned n_requests);

bool session_is_pending(const struct session *session);

/* Takes what has been pushed. Returns true if there was something. Sets `violation` when the client broke a rule. */
bool session_take(struct session *session);

/* Issues a part of the next ready demand. Returns true if there was one. */
bool session_issue(struct session *session);

/* Tells the client's event loop of outcomes that have been stored. */
void session_announce(struct session *session);

/* The punch of a discard is over. */
void session_discard_done(struct session *session, uint32_t slot, uint32_t sequence, int result);

/* Every memory is present: waiters look again. */
void session_wake(struct session *session);

/* Takes back every request and wakes every waiter with `closed` set. */
void session_close(struct session *session);
/* Nothing refers to it any more. */
bool session_is_drained(const struct session *session);
