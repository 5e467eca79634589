/* SPDX-License-Identifier: MIT */
/* What a cold read for somebody who stands still brings along: neighbours in its slice at once, in the same read; those of
 * further slices as hints, when nobody waits. How much is decided in order.h. */
#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/recorder.h"
#include "broker/serve.h"
#include "broker/source.h"
#include "common/macro.h"

/* Pages of `mask` that `source` has data for: holes cost no read, and another part's pages need one of their own. */
static uint64_t around_data(struct memory *memory, uint64_t slice, uint64_t mask, const struct source *source) {
        uint64_t data_mask = 0;

        while (mask) {
                unsigned first, count, n;
                uint64_t offset, length;
                bool data = false;

                mask_first_run(mask, &first, &count);
                offset = memory->source_offset + (slice * SLICE_PAGES + first) * PB_PAGE_BYTES;
                length = count * PB_PAGE_BYTES;
                if (memory->source->ops->extent(memory->source, offset, length, &data, &length) < 0)
                        return data_mask;
                /* What is partly data is left to who wants it. */
                n = (unsigned) (min_u64(length, count * PB_PAGE_BYTES) / PB_PAGE_BYTES);
                for (unsigned i = 0; data && i < n; i++)
                        if (source_leaf(memory->source, offset + i * PB_PAGE_BYTES) == source)
                                data_mask |= 1ull << (first + i);
                mask &= ~slice_mask(first, first + (n ?: 1) - 1);
        }
        return data_mask;
}

static void note_further(struct pager *pager, struct memory *memory, uint64_t first, uint64_t end, uint64_t slice) {
        for (uint64_t s = slice_of(first); s <= slice_of(end - 1); s++) {
                if (s == slice)
                        continue;
                /* The oldest give way: what was wanted last is what is going on. */
                pager->around[pager->around_next++ % AROUND_SLICES] = (struct around) { .memory = memory, .slice = s };
        }
}

uint64_t pager_around(struct pager *pager, const struct fetch *fetch, const struct source *source) {
        struct memory *memory = fetch->memory;
        uint64_t page = fetch_first_page(fetch), slice_first = fetch->slice * SLICE_PAGES, first, end;
        unsigned window;

        /* One page at a time after an error, and whole backing pages are asked for as they are. */
        if (pager->options.around <= 1 || !class_is_demand(fetch->class) || fetch->attempt > 0 || memory->backing_size > PB_PAGE_BYTES)
                return 0;
        /* What came along could not be told from what was wanted. */
        if (recorder_is_on(pager->recorder))
                return 0;
        window = order_locality_note(&memory->locality, page,
                                     (unsigned) min_u64(order_link_around(&source->link), pager->options.around));
        first = align_down(page, window);
        end = min_u64(first + window, memory->n_pages);
        if (window > SLICE_PAGES)
                note_further(pager, memory, first, end, fetch->slice);
        first = max_u64(first, slice_first);
        end = min_u64(end, slice_first + SLICE_PAGES);
        return around_data(memory, fetch->slice, slice_mask(first, end - 1) & ~fetch->mask, source);
}

bool pager_around_step(struct pager *pager) {
        struct around *around;
        uint64_t claimed, first, last;

        if (pager->around_done == pager->around_next)
                return false;
        if (pager->around_next - pager->around_done > AROUND_SLICES)
                pager->around_done = pager->around_next - AROUND_SLICES;
        around = &pager->around[pager->around_done++ % AROUND_SLICES];
        first = around->slice * SLICE_PAGES;
        last = min_u64(first + SLICE_PAGES, around->memory->n_pages) - 1;
        if (slice_want(around->memory, around->slice, slice_mask(first, last), SLICE_SKIP_POISONED, NULL, &claimed) == 0 &&
            claimed)
                serve_claimed(pager, around->memory, around->slice, claimed, CLASS_PREFETCH, 0);
        return true;
}
