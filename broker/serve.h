/* SPDX-License-Identifier: MIT */
/*
 * What is done with pages that have just been claimed, on the thread that claimed them: zeros at once, what page cache
 * has at once, the rest into the fetch queue.
 */
#pragma once

#include <stdint.h>

#include "broker/request.h"

struct fetch;
struct memory;
struct pager;

enum serve_flags {
        SERVE_ZERO = 1u << 0, /* zeros, whatever the source has: overwrite, discard */
};

void serve_claimed(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t claimed,
                   enum request_class class, unsigned flags);

/* A cold read is over (fetch->read.result). Installs what is still wanted from it, or retries, or poisons. Frees nothing. */
void serve_fetched(struct pager *pager, struct fetch *fetch);

/* A cold read has passed its deadline: its pages get another one, or are poisoned. The fetch is abandoned. */
void serve_late(struct pager *pager, struct fetch *fetch);

/* Queues cold reads for pages that the caller owns. */
void serve_cold(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, enum request_class class,
                unsigned attempt);
