/* SPDX-License-Identifier: MIT */
/* The end of a page's way: its bit, the wake-up, and who is told. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct memory;
struct pager;

/*
 * The bytes of the pages in `mask` (state installing, owned by the caller) are in the memfd: sets their bits, wakes who
 * sleeps on their words, settles their state and their waits, and tells the peers that map the memory of those in
 * `backed` (of a hole there is nothing to be mapped).
 */
void publish_pages(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, uint64_t backed);

/* The pages will not come: poison bits, and every request that waits for one of them fails with -EIO. */
void publish_poison(struct memory *memory, uint64_t slice, uint64_t mask, int reason);

/* Back to absent; who waits gets `error`. */
void publish_failure(struct memory *memory, uint64_t slice, uint64_t mask, int error);

/* The same for a hint or the fill, but pages that a demand waits for stay the caller's. Returns their mask. */
uint64_t publish_unwanted(struct memory *memory, uint64_t slice, uint64_t mask, int error, bool leave_out);
