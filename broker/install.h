/* SPDX-License-Identifier: MIT */
/*
 * Bytes into guest memory. Only pages that the caller owns (state installing), only synchronously, and never by a call
 * on the memfd itself: fallocate() and pwrite() take the inode's lock, which a hostile client can hold for ever by
 * writing from memory that never resolves (invariant 6). Writing through our own mapping takes our own mm's lock only.
 * No function here raises SIGBUS when the memory cannot be backed: they fail.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/slice.h"
#include "protocol/presence.h"

struct memory;

/* Gives pages [first, first + n) memory behind them; fresh pages are zeros. -ENOMEM if there is none (huge-page pool
 * drained, cgroup limit). */
int install_back(struct memory *memory, uint64_t first, uint64_t n);

/* Copies `n` pages from a private buffer. -ENOMEM if they cannot be backed. */
int install_copy(struct memory *memory, uint64_t first, uint64_t n, const void *buffer);

/* A slice of zeros. */
extern const uint8_t install_zeros[SLICE_PAGES * PB_PAGE_BYTES];

/* Makes pages read as zeros. A page of 4 KiB backing that nothing is behind is left so: a hole is zeros. */
int install_zero(struct memory *memory, uint64_t first, uint64_t n);

/* Where page `first` is in our mapping, for a synchronous read by the kernel straight into backed memory. */
void *install_target(struct memory *memory, uint64_t first);

/* Tests only: install_copy() by memcpy(), which ThreadSanitizer can see. */
extern int install_by_memcpy;
