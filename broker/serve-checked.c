/* SPDX-License-Identifier: MIT */
#include "broker/serve-checked.h"

#include <stdlib.h>

#include "broker/checksums.h"
#include "broker/fetch.h"
#include "broker/install.h"
#include "broker/memory.h"
#include "broker/source.h"
#include "common/cleanup.h"

/* From page cache, by way of a private buffer: what is in guest memory can be seen there before its bit is set. A block that
 * is wrong is read once more, as a cold one: that counts as its first try. */
void serve_checked_block(struct memory *memory, uint64_t slice, uint64_t block, uint64_t mask, struct checked *out) {
        struct source *source = memory->source;
        unsigned first = (unsigned) __builtin_ctzll(block), n = (unsigned) __builtin_popcountll(block);
        uint64_t offset = memory->source_offset + (slice * SLICE_PAGES + first) * PB_PAGE_BYTES;
        _cleanup_free_ char *buffer = NULL;

        out->cold |= mask;
        if (source->ops->cold_mask(source, offset, n))
                return;
        buffer = malloc(n * PB_PAGE_BYTES);
        if (!buffer || source->ops->read_now(source, buffer, offset, n * PB_PAGE_BYTES) != (ssize_t) (n * PB_PAGE_BYTES) ||
            !checksums_match(memory, slice, block, buffer))
                return;
        out->cold &= ~mask;
        while (mask) {
                unsigned begin, count;
                uint64_t run;

                mask_first_run(mask, &begin, &count);
                run = slice_mask(begin, begin + count - 1);
                if (install_copy(memory, slice * SLICE_PAGES + begin, count, buffer + (begin - first) * PB_PAGE_BYTES) < 0)
                        out->failed |= run;
                else
                        out->ready |= run;
                mask &= ~run;
        }
}

uint64_t fetch_verify(const struct fetch *fetch, uint64_t got, uint64_t *ret_wrong) {
        const struct memory *memory = fetch->memory;
        unsigned base = (unsigned) __builtin_ctzll(fetch->read_mask);
        uint64_t right = 0;

        *ret_wrong = 0;
        for (uint64_t rest = got; rest;) {
                uint64_t block = checksums_block(memory, fetch->slice, rest);
                const char *data = (const char *) fetch->read.buffer + ((unsigned) __builtin_ctzll(block) - base) * PB_PAGE_BYTES;

                rest &= ~block;
                if ((got & block) != block)
                        continue; /* the read came short: the block is read again */
                if (checksums_match(memory, fetch->slice, block, data))
                        right |= block;
                else
                        *ret_wrong |= block;
        }
        return right;
}
