/* SPDX-License-Identifier: MIT */
/*
 * The last failure of each thread, for pb_explain().
 *
 * Not thread-local storage: in a library that was loaded by dlopen() its first use may allocate, which a signal handler
 * must not; and it would be state outside the client object. So: a table in the object, a thread finds its entry by
 * its id, and nobody else ever writes it while that thread lives. Recording takes no lock and allocates nothing.
 */
#pragma once

#include <stdint.h>

#define FAILURE_THREADS_MAX 256u
#define FAILURE_TEXT_SIZE 512u

enum failure_call {
        FAILURE_NONE,
        FAILURE_GET_REGION,
        FAILURE_ENSURE,
        FAILURE_ENSUREV,
        FAILURE_SUBMIT,
        FAILURE_REAP,
        FAILURE_GET_FD,
        FAILURE_PREFETCH,
        FAILURE_DISCARD,
        FAILURE_ATTACH_VMM,
        FAILURE_SET_FILL,
        FAILURE_HEAL,
        FAILURE_GET_STATS,
        FAILURE_GET_COUNTERS,
        FAILURE_GET_EVENT,
        FAILURE_RELEASE_REGION,
        FAILURE_ADD_MEMORY,
        FAILURE_REMOVE_MEMORY,
        _FAILURE_CALLS,
};

enum failure_place {
        FAILURE_NOWHERE,
        FAILURE_AT_GPA,  /* place is a guest-physical address */
        FAILURE_AT_PAGE, /* place is a page of `memory`: poisoned */
};

struct failure {
        enum failure_call call;
        int error;
        enum failure_place place_kind;
        uint32_t memory;
        uint64_t place;
};

struct failure_entry {
        uint32_t tid; /* 0: free */
        uint32_t turn; /* changes with every record: a handler that interrupts a record shows by it */
        uint32_t explained; /* `turn` that `text` speaks of */
        uint32_t call;
        int32_t error;
        uint32_t place_kind;
        uint32_t memory;
        uint64_t place;
        char text[FAILURE_TEXT_SIZE]; /* touched by pb_explain() of that thread only */
};

struct failure_table {
        struct failure_entry entries[FAILURE_THREADS_MAX];
};

/* Records the calling thread's last failure and returns its error. Async-signal-safe. With more than
 * FAILURE_THREADS_MAX living threads that have failed, the rest is not recorded. */
int failure_record(struct failure_table *table, const struct failure *failure);

/* The calling thread's entry, or NULL: it has not failed (or there was no room). */
struct failure_entry *failure_find(struct failure_table *table);
