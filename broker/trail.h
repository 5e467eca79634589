/* SPDX-License-Identifier: MIT */
/*
 * What the pager has lately done about a slice, for those who ask why a page does not come. The pager's thread writes and
 * nobody waits: a table with one place for many slices, in which a newer one displaces an older. Good for a person's
 * question, and for nothing that decides.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define TRAIL_PLACES 4096u

struct trail_place {
        atomic_uint_fast64_t key; /* memory and slice, plus one; 0: unused */
        atomic_uint_fast64_t reading, failed; /* masks */
        atomic_uint_fast64_t at_us;           /* of the last failure */
        atomic_uint tries;                    /* that failed, of the page that had the most */
        atomic_int error;                     /* the last one's */
};

struct trail {
        struct trail_place places[TRAIL_PLACES];
};

/* The pager's. */
void trail_read_begins(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask);
void trail_read_ends(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask);
void trail_failed(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask, unsigned tries, int error,
                  uint64_t now_us);

/* Anybody's. All 0 if nothing is known. */
struct trail_answer {
        uint64_t reading, failed, at_us;
        unsigned tries;
        int error;
};
struct trail_answer trail_look(const struct trail *trail, unsigned memory, uint64_t slice);

/* One place: returns false if it is unused. */
bool trail_get(const struct trail *trail, unsigned place, unsigned *ret_memory, uint64_t *ret_slice,
               struct trail_answer *ret);
