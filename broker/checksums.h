/* SPDX-License-Identifier: MIT */
/*
 * Checksums of a source's blocks, from the file that pagebroker-checksum(1) has made. With them nothing of a block counts
 * before all of it has been read into a private buffer and found right, whichever way it came.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct checksums;
struct memory;
struct source;

/* Reads the whole file: later changes do not matter. It must be of an image of the source's size, and the source's pages
 * must begin at a whole block. On failure `ret_error` (may be NULL) is set to a sentence; free it. */
int checksums_open(struct checksums **ret, const char *path, const struct source *source, uint64_t source_offset,
                   char **ret_error);
/* Accepts and returns NULL. */
struct checksums *checksums_free(struct checksums *checksums);

/* Pages of `mask` of a slice, rounded out to whole blocks, as far as the source goes. */
uint64_t checksums_widen(const struct memory *memory, uint64_t slice, uint64_t mask);

/* The pages of the block in which the lowest page of `mask` lies. `mask` is not 0. */
uint64_t checksums_block(const struct memory *memory, uint64_t slice, uint64_t mask);

/* Is the block of these pages (from checksums_block()) all zeros? Then it need not be read. */
bool checksums_is_zero(const struct memory *memory, uint64_t slice, uint64_t block);

/* Are these the bytes of that block, all of it? */
bool checksums_match(const struct memory *memory, uint64_t slice, uint64_t block, const void *data);

/* Pages of the memory that are in blocks which are not all zeros. */
uint64_t checksums_count_data(const struct memory *memory);
