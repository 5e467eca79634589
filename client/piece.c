/* SPDX-License-Identifier: MIT */
#include "client/piece.h"

#include <errno.h>

#include "common/macro.h"
#include "protocol/order.h"

static int range_check(const pb_client *client, const struct pb_range *range) {
        if (range->intent < PB_READ || range->intent > PB_OVERWRITE || range->reserved != 0)
                return -EINVAL;
        if (client->role == PB_ROLE_OBSERVER || (range->intent != PB_READ && !client->prefix.may_write))
                return -EACCES;
        return client_covers(client, range->gpa, range->len) ? 0 : -EFAULT;
}

int ranges_check(const pb_client *client, const struct pb_range *ranges, unsigned n, unsigned *ret_index) {
        for (unsigned i = 0; i < n; i++) {
                int r = range_check(client, &ranges[i]);

                if (r < 0) {
                        *ret_index = i;
                        return r;
                }
        }
        return 0;
}

/* What the cursor stands before, up to the end of its range or region. */
struct chunk {
        uint32_t memory;
        uint64_t offset; /* in the memory */
        uint64_t len;
};

static bool cursor_get_chunk(struct cursor *c, struct chunk *ret) {
        for (; c->i < c->n; c->i++, c->done = 0) {
                const struct pb_range *range = &c->ranges[c->i];
                uint64_t gpa = range->gpa + c->done;
                const struct link_region *region;

                if (c->done >= range->len)
                        continue;
                region = client_find_region(c->client, gpa);
                if (!region) /* only if the caller changes its ranges under us */
                        continue;
                *ret = (struct chunk) {
                        .memory = region->memory,
                        .offset = region->offset + (gpa - region->gpa),
                        .len = min_u64(range->len - c->done, region->size - (gpa - region->gpa)),
                };
                return true;
        }
        return false;
}

/* The first page of [first, last] whose bit in `words` is `want`; the load pairs with the broker's publishing. */
static bool bits_find(const uint32_t *words, uint64_t first, uint64_t last, bool want, struct missing *ret) {
        while (first <= last) {
                uint64_t end = min_u64(last, first | 31);
                const uint32_t *word = &words[presence_word(first)];
                uint32_t value = order_present_load(word);
                uint32_t hits = (want ? value : ~value) & presence_mask(first, end);

                if (hits != 0) {
                        ret->word = word;
                        ret->value = value;
                        ret->page = (first & ~31ull) + (unsigned) __builtin_ctz(hits);
                        return true;
                }
                first = end + 1;
        }
        return false;
}

static bool chunk_find(const pb_client *client, const struct chunk *chunk, bool poison, struct missing *ret) {
        const struct client_memory *memory = &client->memories[chunk->memory];

        if (!bits_find(poison ? memory->poison : memory->present, chunk->offset >> PB_PAGE_SHIFT,
                       (chunk->offset + chunk->len - 1) >> PB_PAGE_SHIFT, poison, ret))
                return false;
        ret->memory = chunk->memory;
        return true;
}

bool cursor_find_missing(struct cursor *c, struct missing *ret) {
        struct chunk chunk;

        while (cursor_get_chunk(c, &chunk)) {
                struct missing missing;

                if (chunk_find(c->client, &chunk, false, &missing)) {
                        c->done += max_u64(missing.page << PB_PAGE_SHIFT, chunk.offset) - chunk.offset;
                        *ret = missing;
                        return true;
                }
                c->done += chunk.len;
        }
        return false;
}

bool ranges_find_last(const pb_client *client, const struct pb_range *ranges, unsigned n, struct missing *ret) {
        uint64_t last = n > 0 ? ranges[n - 1].gpa + ranges[n - 1].len - 1 : 0;

        if (n == 0 || ranges[n - 1].len == 0)
                return false;
        for (unsigned i = 0; i < client->n_regions; i++) {
                const struct pb_view *view = &client->views[i];
                struct missing missing = { .memory = client->regions[i].memory };

                if (last - view->gpa >= view->size)
                        continue;
                missing.page = view->first_page + ((last - view->gpa) >> PB_PAGE_SHIFT);
                missing.word = &view->words[presence_word(missing.page)];
                missing.value = order_present_load(missing.word);
                if (missing.value & presence_mask(missing.page, missing.page))
                        return false;
                *ret = missing;
                return true;
        }
        return false;
}

bool ranges_find_poison(const pb_client *client, const struct pb_range *ranges, unsigned n, struct missing *ret) {
        struct cursor cursor = CURSOR(client, ranges, n);
        struct chunk chunk;

        while (cursor_get_chunk(&cursor, &chunk)) {
                if (chunk_find(client, &chunk, true, ret))
                        return true;
                cursor.done += chunk.len;
        }
        return false;
}

/* The next piece of the cursor's range, before any joining. */
static bool piece_cut(struct piece_iterator *it, struct pb_slot_range *ret) {
        struct cursor *c = &it->cursor;
        struct chunk chunk;
        uint32_t intent;

        if (!cursor_get_chunk(c, &chunk))
                return false;
        intent = it->no_intent ? 0 : c->ranges[c->i].intent;
        if (intent == PB_OVERWRITE) {
                uint64_t in_page = chunk.offset % PB_PAGE_SIZE;

                if (in_page == 0 && chunk.len >= PB_PAGE_SIZE)
                        chunk.len = align_down(chunk.len, PB_PAGE_SIZE);
                else {
                        chunk.len = min_u64(chunk.len, PB_PAGE_SIZE - in_page);
                        intent = PB_WRITE;
                }
        }
        c->done += chunk.len;
        *ret = (struct pb_slot_range) {
                .first_page = chunk.offset >> PB_PAGE_SHIFT,
                .n_pages = ((chunk.offset + chunk.len - 1) >> PB_PAGE_SHIFT) - (chunk.offset >> PB_PAGE_SHIFT) + 1,
                .memory = chunk.memory,
                .intent = intent,
        };
        return true;
}

static bool piece_join(struct pb_slot_range *held, const struct pb_slot_range *next) {
        uint64_t end = held->first_page + held->n_pages;

        if (held->memory != next->memory || held->intent != next->intent || next->first_page < held->first_page ||
            next->first_page > end)
                return false;
        held->n_pages = max_u64(end, next->first_page + next->n_pages) - held->first_page;
        return true;
}

static bool piece_is_present(const struct piece_iterator *it, const struct pb_slot_range *piece) {
        struct missing missing;

        return !bits_find(it->cursor.client->memories[piece->memory].present, piece->first_page,
                          piece->first_page + piece->n_pages - 1, false, &missing);
}

/* Joined first and tested for presence afterwards: a piece that became present in between must not cut one piece in
 * two. */
static bool piece_next_joined(struct piece_iterator *it, struct pb_slot_range *ret) {
        struct pb_slot_range next;

        while (piece_cut(it, &next)) {
                if (it->has_held && piece_join(&it->held, &next))
                        continue;
                if (it->has_held) {
                        *ret = it->held;
                        it->held = next;
                        return true;
                }
                it->held = next;
                it->has_held = true;
        }
        if (!it->has_held)
                return false;
        *ret = it->held;
        it->has_held = false;
        return true;
}

bool piece_next(struct piece_iterator *it, struct pb_slot_range *ret) {
        struct pb_slot_range piece;

        while (piece_next_joined(it, &piece)) {
                if (it->skip_present && piece_is_present(it, &piece))
                        continue;
                *ret = piece;
                return true;
        }
        return false;
}
