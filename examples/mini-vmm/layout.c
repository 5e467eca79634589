/* SPDX-License-Identifier: MIT */
#include "layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "client/pagebroker.h"
#include "complain.h"

#define LARGE_PAGE (UINT64_C(2) << 20) /* what one entry of a page directory maps */
#define GIB (UINT64_C(1) << 30)
#define LOW_MAX (2 * GIB)               /* as QEMU's q35 */
#define END_MAX (512 * GIB)             /* one page directory pointer table */
#define TABLE_FLAGS UINT64_C(0x03)      /* present, writable */
#define LARGE_PAGE_FLAGS UINT64_C(0x83) /* ... and 2 MiB */

static uint64_t n_directories(const struct layout *layout) {
        struct region high = layout_get_region(layout, 1);

        return (high.gpa + high.size + GIB - 1) / GIB;
}

int layout_settle(struct layout *layout) {
        uint64_t align = max_u64(LARGE_PAGE, layout->page_size);

        if (layout->low_size == 0)
                layout->low_size = min_u64(align_up(layout->size / 2, align), LOW_MAX);
        if (layout->page_size != PB_PAGE_SIZE && layout->page_size != LARGE_PAGE && layout->page_size != GIB)
                return complain(0, "--huge: pages of %" PRIu64 " bytes do not exist, 2M and 1G do", layout->page_size);
        if (!is_aligned(layout->size, align) || layout->size < 2 * align || layout->size > END_MAX - GUEST_HIGH)
                return complain(0, "--memory: must be a multiple of %" PRIu64 " MiB, from %" PRIu64 " MiB to 508 GiB",
                                align >> 20, 2 * align >> 20);
        if (!is_aligned(layout->low_size, align) || layout->low_size >= layout->size || layout->low_size > LOW_MAX)
                return complain(0, "--low: must be a multiple of %" PRIu64 " MiB, less than --memory, at most 2 GiB",
                                align >> 20);
        if (layout->stride == 0 || !is_aligned(layout->stride, layout->stride) || layout->stride > UINT32_MAX)
                return complain(0, "--stride: must be a power of two");
        if (layout->seed == 0 || layout->seed > UINT32_MAX)
                return complain(0, "--seed: must be 1 to %" PRIu32, UINT32_MAX);
        return 0;
}

struct region layout_get_region(const struct layout *layout, unsigned index) {
        if (index == 0)
                return (struct region) { .size = layout->low_size };
        return (struct region) {
                .gpa = GUEST_HIGH,
                .size = layout->size - layout->low_size,
                .offset = layout->low_size,
        };
}

struct guest_params layout_get_params(const struct layout *layout) {
        struct guest_params params = {
                .first_page = GUEST_TABLES / PB_PAGE_SIZE + 2 + n_directories(layout),
                .n_pages = layout->size / PB_PAGE_SIZE,
                .low_pages = layout->low_size / PB_PAGE_SIZE,
                .high_shift = GUEST_HIGH - layout->low_size,
                .seed = layout->seed,
                .stride_mask = layout->stride - 1,
                .order_mask = 1,
        };

        while (params.order_mask < params.n_pages - 1)
                params.order_mask = params.order_mask << 1 | 1;
        return params;
}

/* An identity mapping of [0, 512 GiB) as far as there is memory, in large pages; the hole is mapped too, nothing is
 * there. One directory pointer table, then directories. */
static void load_page_tables(const struct layout *layout, uint8_t *memory) {
        uint64_t *top = (uint64_t *) (void *) (memory + GUEST_TABLES);
        uint64_t *pointers = top + 512, *entries = pointers + 512;
        uint64_t n = n_directories(layout);

        top[0] = (GUEST_TABLES + PB_PAGE_SIZE) | TABLE_FLAGS;
        for (uint64_t i = 0; i < n; i++)
                pointers[i] = (GUEST_TABLES + (2 + i) * PB_PAGE_SIZE) | TABLE_FLAGS;
        for (uint64_t i = 0; i < n * 512; i++)
                entries[i] = i * LARGE_PAGE | LARGE_PAGE_FLAGS;
}

void layout_load_program(const struct layout *layout, const struct region *low) {
        struct guest_params params = layout_get_params(layout);
        uint8_t *memory = low->addr;

        memcpy(memory + GUEST_CODE, guest_begin, (size_t) (guest_end - guest_begin));
        memcpy(memory + GUEST_PARAMS, &params, sizeof params);
        load_page_tables(layout, memory);
}
