/* SPDX-License-Identifier: MIT */
/*
 * What a receiver has confirmed, and what has been given back because of it: two bits a page, in a file, so that an
 * exporter that is started again never reads as zeros what the first one has released.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct release;

/* Opens or makes the file for `n_pages`, of the memory that `identity` names (at most 255 bytes): a file of another
 * memory is -ESTALE. */
int release_open(struct release **ret, const char *path, const char *identity, uint64_t n_pages);
struct release *release_close(struct release *release);

void release_confirm(struct release *release, uint64_t first, uint64_t n);
/* The next run of pages from `*page` on, before `end`, that are confirmed and not released; false if there is none. They are
 * marked as released: give them back now. `again`: also those that have been marked, by an exporter that may have been killed
 * before it gave them back. */
bool release_take(struct release *release, uint64_t *page, uint64_t end, bool again, uint64_t *ret_n);
bool release_is_gone(const struct release *release, uint64_t first, uint64_t n);
/* True the first time. */
bool release_catches_up(struct release *release);
