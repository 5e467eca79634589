/* SPDX-License-Identifier: MIT */
/* Guest memory of our own: for the first life of the guest, and for a restore without Pagebroker. */
#pragma once

#include "layout.h"

struct memory {
        int fd; /* a memfd */
        void *addr;
        uint64_t size;
        struct region regions[LAYOUT_REGIONS];
};

#define MEMORY_INIT \
        { .fd = -1 }

/* Complains and returns a negative errno. */
int memory_open(struct memory *memory, const struct layout *layout);

/* Accepts half-built ones. */
void memory_close(struct memory *memory);
