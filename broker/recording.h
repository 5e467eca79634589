/* SPDX-License-Identifier: MIT */
/* What a recorder writes into, and what is left of it after the mark: the parts of a file, protocol/working-set.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "protocol/working-set.h"

struct memory;
struct source;

struct recording {
        struct pb_working_set_header header; /* header.started_us tells one from another */
        struct pb_working_set_memory memories[PB_MEMORIES_MAX];
        struct pb_working_set_client clients[PB_WORKING_SET_CLIENTS_MAX];
        struct pb_working_set_entry *entries;
        uint64_t *seen[PB_MEMORIES_MAX]; /* a word a slice, of what has been noted; only what is touched costs memory */
        uint64_t seen_size[PB_MEMORIES_MAX];
        uint64_t pages;
        uint64_t start_us; /* CLOCK_MONOTONIC */
};

/* Which file it is, as it was opened. Not by asking again: a file system that is silent would keep the control thread. False: it
 * is none. */
bool source_get_file(const struct source *source, struct pb_working_set_memory *ret);

/* -ENOMEM */
int recording_new(struct recording **ret, const char *vm, struct memory *const memories[], unsigned n_memories);
/* Accepts and returns NULL. */
struct recording *recording_free(struct recording *recording);

/* The mark: nothing is added any more. */
void recording_finish(struct recording *recording);

/* Of a finished one: bytes [offset, offset + n) of the file, which lie inside header.size. Needs no memory, so that what was
 * recorded is not lost for want of it. */
void recording_copy(const struct recording *recording, uint64_t offset, uint64_t n, void *ret);
/* The whole file, to the descriptor. */
int recording_write(const struct recording *recording, int fd);
