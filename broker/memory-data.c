/* SPDX-License-Identifier: MIT */
/* Which pages the source has data for: counted once, and kept as a bitmap for those who look at the memory or reckon
 * with it. Nothing that is served depends on it. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "broker/checksums.h"
#include "broker/memory.h"
#include "broker/source.h"
#include "common/macro.h"

/* #syscalls:broker clock_nanosleep */

/* Mapped: what is never written costs nothing, and it is written only where there is data. */
static int make_map(const struct memory *memory, uint64_t **ret) {
        void *map = mmap(NULL, presence_bitmap_size(memory->n_pages), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (map == MAP_FAILED)
                return -errno;
        *ret = map;
        return 0;
}

static void free_map(const struct memory *memory, uint64_t **map) {
        if (*map)
                (void) munmap(*map, presence_bitmap_size(memory->n_pages));
        *map = NULL;
}

int memory_make_data_map(struct memory *memory) {
        int r = make_map(memory, &memory->data);

        return r < 0 ? r : make_map(memory, &memory->left_out);
}

void memory_free_data_map(struct memory *memory) {
        free_map(memory, &memory->data);
        free_map(memory, &memory->left_out);
}

uint64_t memory_left_out_mask(const struct memory *memory, uint64_t slice) {
        if (atomic_load_explicit(&memory->pages_left_out, memory_order_relaxed) == 0)
                return 0;
        return __atomic_load_n(&memory->left_out[slice], __ATOMIC_RELAXED);
}

void memory_leave_out(struct memory *memory, uint64_t slice, uint64_t mask) {
        uint64_t before = __atomic_fetch_or(&memory->left_out[slice], mask, __ATOMIC_RELAXED);

        atomic_fetch_add_explicit(&memory->pages_left_out, (unsigned) __builtin_popcountll(mask & ~before),
                                  memory_order_relaxed);
}

void memory_take_back(struct memory *memory, uint64_t slice, uint64_t mask) {
        uint64_t before;

        if (!(memory_left_out_mask(memory, slice) & mask))
                return;
        before = __atomic_fetch_and(&memory->left_out[slice], ~mask, __ATOMIC_RELAXED);
        atomic_fetch_sub_explicit(&memory->pages_left_out, (unsigned) __builtin_popcountll(mask & before),
                                  memory_order_relaxed);
}

uint64_t memory_data_mask(const struct memory *memory, uint64_t slice) {
        if (!atomic_load_explicit(&memory->data_is_counted, memory_order_acquire))
                return ~0ull;
        return __atomic_load_n(&memory->data[slice], __ATOMIC_RELAXED);
}

static void note_data(struct memory *memory, uint64_t first, uint64_t n) {
        uint64_t end = min_u64(first + n, memory->n_pages);

        for (uint64_t page = first; page < end; page = (page | (SLICE_PAGES - 1)) + 1) {
                uint64_t last = min_u64(page | (SLICE_PAGES - 1), end - 1), *word = &memory->data[slice_of(page)];

                __atomic_store_n(word, *word | slice_mask(page, last), __ATOMIC_RELAXED);
        }
}

/* Of pages [first, first + n): which were present when the memory was taken over? */
static uint64_t count_adopted(const struct memory *memory, uint64_t first, uint64_t n) {
        uint64_t end = min_u64(first + n, memory->n_pages), pages = 0;

        for (uint64_t page = first; memory->adopted_bits && page < end;) {
                uint64_t last = min_u64(page | 31, end - 1);

                pages += (unsigned) __builtin_popcount(memory->adopted_bits[presence_word(page)] & presence_mask(page, last));
                page = last + 1;
        }
        return pages;
}

void memory_count_data(struct memory *memory) {
        struct source *source = memory->source;
        uint64_t offset = 0, pages = 0, adopted = 0;

        /* Counted by an earlier broker; all of it is present. Which pages they were is not known any more. */
        if (source->is_done) {
                atomic_fetch_add_explicit(&memory->pages_fetched, source->pages_data, memory_order_relaxed);
                atomic_store_explicit(&memory->pages_data, source->pages_data, memory_order_relaxed);
                return;
        }
        /* They say nothing about zeros: then every page is taken for data. */
        if (memory->checksums) {
                atomic_store_explicit(&memory->pages_data, checksums_count_data(memory), memory_order_relaxed);
                return;
        }
        /* Slow to come by for a far source: nobody waits for this. */
        while (source->ops->extents_known && !source->ops->extents_known(source)) {
                if (atomic_load_explicit(&memory->closing, memory_order_relaxed))
                        return;
                (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec) { .tv_nsec = 10000000 }, NULL);
        }

        while (offset < memory->size && !atomic_load_explicit(&memory->closing, memory_order_relaxed)) {
                uint64_t length;
                bool data;

                if (source->ops->extent(source, memory->source_offset + offset, memory->size - offset, &data, &length) < 0)
                        return;
                length = data ? align_up(length, PB_PAGE_BYTES) : max_u64(align_down(length, PB_PAGE_BYTES), PB_PAGE_BYTES);
                if (data) {
                        pages += length / PB_PAGE_BYTES;
                        note_data(memory, offset / PB_PAGE_BYTES, length / PB_PAGE_BYTES);
                        adopted += count_adopted(memory, offset / PB_PAGE_BYTES, length / PB_PAGE_BYTES);
                }
                offset += length;
        }
        atomic_fetch_add_explicit(&memory->pages_fetched, adopted, memory_order_relaxed);
        atomic_store_explicit(&memory->pages_data, pages, memory_order_relaxed);
        atomic_store_explicit(&memory->data_is_counted, true, memory_order_release);
}
