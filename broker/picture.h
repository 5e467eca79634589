/* SPDX-License-Identifier: MIT */
/* What the maps say about many pages at once, for people. Reads shared words and takes no lock. */
#pragma once

#include <stdint.h>

struct memory;
struct pager;

/* One call looks at no more pages: some 10 ms of the control thread. */
#define PICTURE_PAGES_MAX (1ull << 26)
#define PICTURE_BINS_MAX 4096u

/* Pages of one bin; each page counts once. */
struct picture_bin {
        uint64_t present, absent;           /* the source has data for them */
        uint64_t in_flight;                 /* being read, or a try has just failed */
        uint64_t poisoned;
        uint64_t zero_present, zero_absent; /* it has none */
};

/* Counts pages [first, first + n) of a memory in bins of `pages_per_bin`, of which there must be enough. */
void picture_count(const struct pager *pager, const struct memory *memory, uint64_t first, uint64_t n,
                   uint64_t pages_per_bin, struct picture_bin *bins);

/* Only two of the sums. */
void picture_sum(const struct memory *memory, uint64_t first, uint64_t n, uint64_t *ret_present, uint64_t *ret_poisoned);
