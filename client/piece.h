/* SPDX-License-Identifier: MIT */
/*
 * From the caller's ranges (bytes of guest-physical space) to pieces (pages of one memory), and the search for the
 * first page that is missing. Pure but for the presence map; nothing here allocates or blocks.
 */
#pragma once

#include "client/client.h"

/* Ranges of a call, and how far they have been worked through. The ranges have been checked by ranges_check(). */
struct cursor {
        const pb_client *client;
        const struct pb_range *ranges;
        unsigned n;
        unsigned i;
        uint64_t done; /* bytes of ranges[i] */
};

#define CURSOR(c, r, count) ((struct cursor) { .client = (c), .ranges = (r), .n = (count) })

/* A missing page, and the word to sleep on with the value in which it was missing. */
struct missing {
        const uint32_t *word;
        uint32_t value;
        uint32_t memory;
        uint64_t page;
};

/* -EINVAL (intent, padding), -EACCES (intent against role), -EFAULT (outside every region); `*ret_index` is the range
 * at fault. */
int ranges_check(const pb_client *client, const struct pb_range *ranges, unsigned n, unsigned *ret_index);

/* Moves the cursor over present pages to the first missing one. False: all are present. Present bits never go away, so
 * the way already gone need not be looked at again. */
bool cursor_find_missing(struct cursor *cursor, struct missing *ret);

/* The last page of the ranges, if it is missing. */
bool ranges_find_last(const pb_client *client, const struct pb_range *ranges, unsigned n, struct missing *ret);

/* The first poisoned page of the ranges. */
bool ranges_find_poison(const pb_client *client, const struct pb_range *ranges, unsigned n, struct missing *ret);

/* Splits ranges into pieces: at the ends of regions, and OVERWRITE into whole pages and the partial pages at both
 * ends, which are asked for with WRITE. Pieces that touch or overlap and want the same become one. */
struct piece_iterator {
        struct cursor cursor;
        bool skip_present; /* leave out pieces that are present altogether */
        bool no_intent;    /* a prefetch, a discard */
        bool has_held;
        struct pb_slot_range held; /* not given out yet: the next may join it */
};

bool piece_next(struct piece_iterator *iterator, struct pb_slot_range *ret);
