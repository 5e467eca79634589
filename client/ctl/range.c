/* SPDX-License-Identifier: MIT */
#include "client/ctl/range.h"

#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"

int range_parse(char **args, unsigned n, struct range *ret) {
        struct range range = {};

        if (n == 0) {
                *ret = range;
                return 0;
        }
        if (n != 2)
                return complain(-1, "an address and a size, or neither");
        if (!text_parse_size(args[0], &range.address))
                return complain(-1, "'%s' is no address: bytes, such as 0x100000 or 4G", args[0]);
        if (!text_parse_size(args[1], &range.size) || range.size == 0)
                return complain(-1, "'%s' is no size: bytes, such as 4096 or 16M", args[1]);
        if (range.size > UINT64_MAX - range.address)
                return complain(-1, "%s bytes at %s: beyond all addresses", args[1], args[0]);
        *ret = range;
        return 0;
}

/* What of [range) lies in `size` bytes at `address`, which are the memory's from `offset` on. */
static void add_part(const struct range *range, uint32_t memory, uint64_t address, uint64_t size, uint64_t offset,
                     struct range_part *parts, unsigned *n) {
        uint64_t first = max_u64(address, range->address),
                 end = min_u64(address + size, range->size > 0 ? range->address + range->size : UINT64_MAX);
        uint64_t page;

        if (first >= end || *n == RANGE_PARTS_MAX)
                return;
        page = (offset + (first - address)) / 4096;
        parts[(*n)++] = (struct range_part) { .memory = memory,
                                              .first_page = page,
                                              .n_pages = (offset + (end - address) + 4095) / 4096 - page };
}

int range_find(const struct ctl *ctl, const struct view *view, const struct range *range,
               struct range_part ret[RANGE_PARTS_MAX], unsigned *ret_n) {
        /* Of everything, memories are meant: several regions may show one. */
        bool is_by_memory = ctl->memory || range->size == 0;
        const json_object *list = is_by_memory ? view->sources : view->regions;
        unsigned n = 0;

        for (unsigned i = 0; i < json_length(list); i++) {
                const json_object *o = json_object_array_get_idx(list, i);

                if (ctl->memory && strcmp(json_text(o, "memory"), ctl->memory) != 0)
                        continue;
                add_part(range, (uint32_t) json_u64(o, is_by_memory ? "index" : "memory_index"),
                         is_by_memory ? 0 : json_u64(o, "address"), json_u64(o, "size"),
                         is_by_memory ? 0 : json_u64(o, "offset"), ret, &n);
        }
        if (n == 0 && ctl->memory)
                return complain(STATUS_FAILURE, "there is no such range, or no memory '%s'; see pagebrokerctl status",
                                ctl->memory);
        if (n == 0)
                return complain(STATUS_FAILURE, "0x%" PRIx64 " lies in no region; see pagebrokerctl status",
                                range->address);
        *ret_n = n;
        return STATUS_OK;
}
