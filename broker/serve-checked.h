/* SPDX-License-Identifier: MIT */
/* Data of a source with checksums, on its way into memory. */
#pragma once

#include <stdint.h>

struct fetch;
struct memory;

/* What became of pages that were looked for in page cache. */
struct checked {
        uint64_t ready;  /* right, and installed */
        uint64_t cold;   /* not all of their block was there, or it was wrong: to be read */
        uint64_t failed; /* could not be installed: -ENOMEM */
};

/* Pages `mask` of one block, which is not all zeros. */
void serve_checked_block(struct memory *memory, uint64_t slice, uint64_t block, uint64_t mask, struct checked *out);

/* Of the pages `got` (all that a finished read has brought), those in blocks that are whole and right; `ret_wrong`: in
 * blocks that are whole and wrong. */
uint64_t fetch_verify(const struct fetch *fetch, uint64_t got, uint64_t *ret_wrong);
