/* SPDX-License-Identifier: MIT */
/*
 * Which addresses of this process show guest memory. Follows every mmap() and munmap() of the program. A fixed table,
 * because it is used inside mmap(), where nothing may allocate. Not thread-safe: the caller holds a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A VMM has one mapping per region, or a few; each hole punched into one by munmap() takes one more. */
#define MAPPINGS_MAX 256u

struct mapping {
        uintptr_t start; /* page-aligned, as `end` */
        uintptr_t end;
        uint64_t offset;      /* of `start` in the memory, bytes */
        unsigned memory;      /* index */
        bool skipped_at_fork; /* MADV_DONTFORK */
};

struct mapping_table {
        unsigned n;
        struct mapping mappings[MAPPINGS_MAX];
};

/* Room for one more mapping and whatever mapping_remove() of its addresses splits off? */
bool mapping_has_room(const struct mapping_table *table);

/* The caller has asked mapping_has_room(). Replaces what was there. */
void mapping_add(struct mapping_table *table, const struct mapping *mapping);

/* Forgets [start, end), cutting mappings that reach over its borders. */
void mapping_remove(struct mapping_table *table, uintptr_t start, uintptr_t end);

bool mapping_overlaps(const struct mapping_table *table, uintptr_t start, uintptr_t end);

/* MADV_DONTFORK and MADV_DOFORK. False: the table is full. */
bool mapping_set_skipped_at_fork(struct mapping_table *table, uintptr_t start, uintptr_t end, bool skipped);
