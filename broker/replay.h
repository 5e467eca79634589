/* SPDX-License-Identifier: MIT */
/* A recorded working set as a plan of prefetches: in recorded order, with what lies close together in one piece. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct memory;

struct replay_run {
        struct memory *memory;
        uint64_t first, count; /* pages */
};

struct replay {
        struct replay_run *runs;
        uint64_t n_runs, n_pages;
        uint64_t next;     /* the pager's: the first run that has not been asked for */
        uint64_t began_us; /* the pager's */
};

/* What a file is to be replayed into. */
struct replay_target {
        const char *vm;
        struct memory *const *memories;
        unsigned n_memories;
        bool force; /* also what was recorded from other memories or sources; as far as it goes */
};

/*
 * Makes a plan of a file in memory (protocol/working-set.h), which must not change meanwhile. Memories are found by name; those
 * that are not plugged in are left out. What can be lived with comes back in `ret_notice` (NULL: nothing); why there is no
 * plan, in `ret_error`. Both are the caller's to free. -EINVAL: not a working set, or none of this VM; -EXDEV: recorded from
 * another memory or source, and not forced; -ENOMEM.
 */
int replay_new(struct replay **ret, const void *file, uint64_t size, const struct replay_target *target, char **ret_notice,
               char **ret_error);

/* The same from a descriptor, which is not closed: a regular file. */
int replay_load(struct replay **ret, int fd, const struct replay_target *target, char **ret_notice, char **ret_error);

struct replay *replay_free(struct replay *replay);
