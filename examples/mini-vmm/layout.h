/* SPDX-License-Identifier: MIT */
/* Where guest memory is: one memory, shown to the guest as a region below the hole for devices and one behind it. */
#pragma once

#include <stdint.h>

#include "guest.h"

#define LAYOUT_REGIONS 2

struct layout {
        uint64_t size;      /* of the memory */
        uint64_t low_size;  /* what of it lies below the hole */
        uint64_t page_size; /* of the backing: 4096, 2 MiB or 1 GiB */
        uint64_t seed;      /* of the pattern, 32 bits */
        uint64_t stride;    /* every how many pages one has the pattern: a power of two */
};

struct region {
        uint64_t gpa;
        uint64_t size;
        uint64_t offset; /* in the memory */
        void *addr;      /* where this process has it mapped */
};

/* Chooses `low_size` if it is 0 and checks everything. Complains and returns -EINVAL. */
int layout_settle(struct layout *layout);

/* Region `index` of LAYOUT_REGIONS; its `addr` is NULL. */
struct region layout_get_region(const struct layout *layout, unsigned index);

struct guest_params layout_get_params(const struct layout *layout);

/* Puts program, parameters and page tables where the guest expects them. */
void layout_load_program(const struct layout *layout, const struct region *low);
