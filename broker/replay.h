/* SPDX-License-Identifier: MIT */
/* A recorded working set as a plan of prefetches: in recorded order, with what lies close together in one piece. */
#pragma once

#include <stdatomic.h>
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

/*
 * Makes a plan of a file in memory (protocol/working-set.h), which must not change meanwhile. Memories are found by name.
 * What is missing or differs and can be lived with comes back in `ret_notice` (NULL: nothing); why there is no plan, in
 * `ret_error`. Both are the caller's to free. -EINVAL: not a working set, or none of this VM; -ENOMEM.
 */
int replay_new(struct replay **ret, const void *file, uint64_t size, struct memory *const memories[], unsigned n_memories,
               char **ret_notice, char **ret_error);

/* The same from a descriptor, which is not closed: a regular file, or a memfd sealed against writing. */
int replay_load(struct replay **ret, int fd, struct memory *const memories[], unsigned n_memories, char **ret_notice,
                char **ret_error);

struct replay *replay_free(struct replay *replay);
