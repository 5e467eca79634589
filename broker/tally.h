/* SPDX-License-Identifier: MIT */
/*
 * What one client asked for, how long it took, and what it waits for: published by the pager's and the peers' threads,
 * read by the control thread for those who look on. Nobody waits for anybody here, and a reader costs a fault nothing but
 * a shared cache line. Owned together by the client's connection, session and peers.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/latency.h"
#include "broker/request.h"

/* The classes that somebody asks for: all but the fill. */
#define TALLY_CLASSES 3u

/* A request or fault that waits, as others may see it. */
struct wait_note {
        atomic_uint_fast64_t since_ns; /* CLOCK_MONOTONIC; 0: nobody waits. Written last, and to 0 first */
        atomic_uint_fast64_t ranges[PB_SLOT_RANGES]; /* packed; ended by a 0 unless full */
};

/* Faults of one peer that are shown; of more at once the others are only counted. */
#define TALLY_PEER_NOTES 256u

struct fault_note {
        atomic_uint_fast64_t since_ns; /* as above */
        atomic_uint_fast64_t range;    /* packed */
        atomic_int error;              /* why the last try failed; 0: none did */
};

struct tally {
        struct tally *next; /* the control thread's list */
        atomic_uint references;
        atomic_uint_fast64_t taken[TALLY_CLASSES]; /* answered or not */
        atomic_int_fast64_t waiting[TALLY_CLASSES];
        struct latency latency[TALLY_CLASSES];     /* of what was answered */
        struct wait_note *slots; /* PB_RING_SLOTS, if there is a session; fixed before the pager knows it */
};

/* What `since_ns` and one range say. */
struct waited {
        uint64_t since_ns;
        unsigned memory;
        uint64_t first, count; /* count: at most TALLY_COUNT_MAX is told */
};
#define TALLY_COUNT_MAX ((1u << 26) - 1)

/* With one reference. NULL without memory. */
struct tally *tally_new(void);
struct tally *tally_ref(struct tally *tally);   /* NULL: NULL */
struct tally *tally_unref(struct tally *tally); /* returns NULL; frees nothing: see tally_sweep() */
/* -ENOMEM. Fills in `slots`. */
int tally_add_slots(struct tally *tally);

/* Control thread: merges those that only the list still holds into `departed`, and frees them. */
void tally_sweep(struct tally **list, struct latency departed[TALLY_CLASSES]);
void tally_free_all(struct tally **list);

/* All of these accept NULL for the tally (no client: a test's session) and do nothing then. */
void tally_take(struct tally *tally, enum request_class class);
void tally_begin(struct tally *tally, enum request_class class);
void tally_answered(struct tally *tally, enum request_class class, uint64_t since_ns);
/* Ends a begin. `since_ns` 0: without an answer. */
void tally_end(struct tally *tally, enum request_class class, uint64_t since_ns);
void tally_note_slot(struct tally *tally, unsigned slot, const struct request *request, uint64_t since_ns);
void tally_clear_slot(struct tally *tally, unsigned slot);

uint64_t tally_pack(const struct page_range *range);

/* The ranges of a note; 0 if nobody waits there, or it is just being changed. */
unsigned tally_read_slot(const struct wait_note *note, struct waited ret[PB_SLOT_RANGES]);
bool tally_read_fault(const struct fault_note *note, struct waited *ret, int *ret_error);
