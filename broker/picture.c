/* SPDX-License-Identifier: MIT */
#include "broker/picture.h"

#include <string.h>

#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/trail.h"
#include "common/clock.h"
#include "common/macro.h"

/* A page whose last try failed so recently is being tried again. */
#define FAILED_LATELY_US (1 * USEC_PER_SEC)

static unsigned ones(uint64_t mask) {
        return (unsigned) __builtin_popcountll(mask);
}

static void count_mask(const struct memory *memory, uint64_t slice, uint64_t mask, struct picture_bin *bin) {
        uint64_t present = memory_present_mask(memory, slice) & mask;
        uint64_t poisoned = memory_poison_mask(memory, slice) & mask & ~present;
        uint64_t absent = mask & ~present & ~poisoned, data = memory_data_mask(memory, slice);

        bin->present += ones(present & data);
        bin->zero_present += ones(present & ~data);
        bin->poisoned += ones(poisoned);
        bin->absent += ones(absent & data);
        bin->zero_absent += ones(absent & ~data);
}

/* Moves pages of `mask` from absent to in flight. They may have arrived since they were counted. */
static void move_mask(const struct memory *memory, uint64_t slice, uint64_t mask, uint64_t first, uint64_t n,
                      uint64_t pages_per_bin, struct picture_bin *bins) {
        uint64_t data = memory_data_mask(memory, slice);

        mask &= ~memory_present_mask(memory, slice) & ~memory_poison_mask(memory, slice);
        for (; mask; mask &= mask - 1) {
                unsigned bit = (unsigned) __builtin_ctzll(mask);
                uint64_t page = slice * SLICE_PAGES + bit, *from;
                struct picture_bin *bin;

                if (page < first || page - first >= n)
                        continue;
                bin = &bins[(page - first) / pages_per_bin];
                from = data >> bit & 1 ? &bin->absent : &bin->zero_absent;
                if (*from > 0) {
                        (*from)--;
                        bin->in_flight++;
                }
        }
}

void picture_count(const struct pager *pager, const struct memory *memory, uint64_t first, uint64_t n,
                   uint64_t pages_per_bin, struct picture_bin *bins) {
        uint64_t now_us = clock_now_us(), end = first + n;

        memset(bins, 0, ((n + pages_per_bin - 1) / pages_per_bin) * sizeof *bins);
        for (uint64_t page = first; page < end;) {
                uint64_t bin = (page - first) / pages_per_bin;
                uint64_t next = min_u64(min_u64(first + (bin + 1) * pages_per_bin, (page | (SLICE_PAGES - 1)) + 1), end);

                count_mask(memory, slice_of(page), slice_mask(page, next - 1), &bins[bin]);
                page = next;
        }
        for (unsigned place = 0; place < TRAIL_PLACES; place++) {
                struct trail_answer answer;
                unsigned index;
                uint64_t slice;

                if (!trail_get(&pager->trail, place, &index, &slice, &answer) || index != memory->index)
                        continue;
                if (now_us - answer.at_us > FAILED_LATELY_US)
                        answer.failed = 0;
                move_mask(memory, slice, answer.reading | answer.failed, first, n, pages_per_bin, bins);
        }
}

void picture_sum(const struct memory *memory, uint64_t first, uint64_t n, uint64_t *ret_present, uint64_t *ret_poisoned) {
        uint64_t present = 0, poisoned = 0, end = first + n;

        for (uint64_t page = first; page < end; page = (page | (SLICE_PAGES - 1)) + 1) {
                uint64_t mask = slice_mask(page, min_u64(page | (SLICE_PAGES - 1), end - 1));

                present += ones(memory_present_mask(memory, slice_of(page)) & mask);
                poisoned += ones(memory_poison_mask(memory, slice_of(page)) & mask);
        }
        *ret_present = present;
        *ret_poisoned = poisoned;
}
