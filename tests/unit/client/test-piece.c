/* SPDX-License-Identifier: MIT */
/* From ranges of bytes to pieces of pages, without a broker. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <string.h>

#include "client/piece.h"

/*
 * Memory 0 has 128 pages and shows as [0, 64) and, from page 1024 of guest-physical space on, [64, 128). Memory 1 has
 * 32 pages and lies right behind the first region.
 */
static uint32_t present0[4], present1[1], poison0[4], poison1[1];
static pb_client the_client;

static pb_client *setup(void) {
        pb_client *client = &the_client;

        memset(client, 0, sizeof *client);
        client->role = PB_ROLE_DEVICE;
        client->prefix.may_write = 1;
        client->n_regions = 3;
        client->regions[0] = (struct link_region) { .memory = 0, .gpa = 0, .size = 64 * PAGE };
        client->regions[1] = (struct link_region) { .memory = 1, .gpa = 64 * PAGE, .size = 32 * PAGE };
        client->regions[2] = (struct link_region) { .memory = 0, .gpa = 1024 * PAGE, .size = 64 * PAGE,
                                                    .offset = 64 * PAGE };
        client->n_memories = 2;
        client->memories[0].present = present0;
        client->memories[0].poison = poison0;
        client->memories[1].present = present1;
        client->memories[1].poison = poison1;
        memset(present0, 0, sizeof present0);
        memset(present1, 0, sizeof present1);
        memset(poison0, 0, sizeof poison0);
        memset(poison1, 0, sizeof poison1);
        return client;
}

static void set_present(uint64_t page) {
        present0[page / 32] |= 1u << page % 32;
}

/* Pieces as text: "memory:first+n/intent ...". */
static const char *cut(const pb_client *client, const struct pb_range *ranges, unsigned n, bool skip_present,
                       bool no_intent) {
        struct piece_iterator it = {
                .cursor = CURSOR(client, ranges, n), .skip_present = skip_present, .no_intent = no_intent,
        };
        struct pb_slot_range piece;
        static char text[4096];
        size_t used = 0;

        text[0] = 0;
        while (piece_next(&it, &piece))
                used += (size_t) snprintf(text + used, sizeof text - used, "%s%u:%llu+%llu/%u", used ? " " : "",
                                          piece.memory, (unsigned long long) piece.first_page,
                                          (unsigned long long) piece.n_pages, piece.intent);
        return text;
}

#define CUT(client, ...)                                                                       \
        cut(client, (const struct pb_range[]) { __VA_ARGS__ },                                 \
            sizeof((const struct pb_range[]) { __VA_ARGS__ }) / sizeof(struct pb_range), false, false)

TEST(piece, widens_to_pages) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { 5 * PAGE + 1, 1, PB_READ, 0 }), "0:5+1/1");
        cr_assert_str_eq(CUT(client, { 5 * PAGE + 4095, 2, PB_WRITE, 0 }), "0:5+2/2");
        cr_assert_str_eq(CUT(client, { 5 * PAGE, 3 * PAGE, PB_READ, 0 }), "0:5+3/1");
}

TEST(piece, nothing_of_an_empty_range) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { 5 * PAGE, 0, PB_READ, 0 }, { 1ull << 60, 0, PB_READ, 0 }), "");
}

TEST(piece, splits_at_the_ends_of_regions) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { 62 * PAGE + 8, 4 * PAGE, PB_READ, 0 }), "0:62+2/1 1:0+3/1");
        cr_assert_str_eq(CUT(client, { 1024 * PAGE, PAGE, PB_READ, 0 }), "0:64+1/1");
}

TEST(piece, joins_neighbours_and_overlaps) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { 0, PAGE, PB_READ, 0 }, { PAGE, PAGE, PB_READ, 0 }), "0:0+2/1");
        cr_assert_str_eq(CUT(client, { 16, 16, PB_READ, 0 }, { 200, 16, PB_READ, 0 }), "0:0+1/1");
        cr_assert_str_eq(CUT(client, { 0, 4 * PAGE, PB_READ, 0 }, { PAGE, PAGE, PB_READ, 0 }), "0:0+4/1");
        /* Neighbours in memory 0, far apart in guest-physical space. */
        cr_assert_str_eq(CUT(client, { 63 * PAGE, PAGE, PB_READ, 0 }, { 1024 * PAGE, PAGE, PB_READ, 0 }), "0:63+2/1");
}

TEST(piece, keeps_what_differs_apart) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { 0, PAGE, PB_READ, 0 }, { PAGE, PAGE, PB_WRITE, 0 }), "0:0+1/1 0:1+1/2");
        cr_assert_str_eq(CUT(client, { 0, PAGE, PB_READ, 0 }, { 2 * PAGE, PAGE, PB_READ, 0 }), "0:0+1/1 0:2+1/1");
        cr_assert_str_eq(CUT(client, { 5 * PAGE, PAGE, PB_READ, 0 }, { 4 * PAGE, PAGE, PB_READ, 0 }),
                         "0:5+1/1 0:4+1/1");
}

TEST(piece, overwrite_asks_for_partial_pages_with_write) {
        pb_client *client = setup();

        cr_assert_str_eq(CUT(client, { PAGE, 3 * PAGE, PB_OVERWRITE, 0 }), "0:1+3/3");
        cr_assert_str_eq(CUT(client, { PAGE + 1, 3 * PAGE, PB_OVERWRITE, 0 }), "0:1+1/2 0:2+2/3 0:4+1/2");
        cr_assert_str_eq(CUT(client, { PAGE, PAGE + 1, PB_OVERWRITE, 0 }), "0:1+1/3 0:2+1/2");
        cr_assert_str_eq(CUT(client, { PAGE + 1, PAGE - 1, PB_OVERWRITE, 0 }), "0:1+1/2");
        cr_assert_str_eq(CUT(client, { PAGE + 8, 16, PB_OVERWRITE, 0 }), "0:1+1/2");
        cr_assert_str_eq(CUT(client, { PAGE + 8, PAGE, PB_OVERWRITE, 0 }), "0:1+2/2");
        /* Across the end of a region: what is whole stays whole. */
        cr_assert_str_eq(CUT(client, { 63 * PAGE, 2 * PAGE, PB_OVERWRITE, 0 }), "0:63+1/3 1:0+1/3");
}

TEST(piece, leaves_out_what_is_present) {
        pb_client *client = setup();
        const struct pb_range ranges[] = {
                { 0, PAGE, PB_READ, 0 }, { 2 * PAGE, PAGE, PB_READ, 0 }, { 4 * PAGE, PAGE, PB_READ, 0 },
                { 6 * PAGE, 2 * PAGE, PB_READ, 0 },
        };

        set_present(2);
        set_present(6);
        /* A piece of which a page is missing is asked for as a whole: the broker knows better than we. */
        cr_assert_str_eq(cut(client, ranges, 4, true, false), "0:0+1/1 0:4+1/1 0:6+2/1");
        cr_assert_str_eq(cut(client, ranges, 4, false, false), "0:0+1/1 0:2+1/1 0:4+1/1 0:6+2/1");
}

TEST(piece, discards_carry_no_intent_and_are_never_left_out) {
        pb_client *client = setup();
        const struct pb_range range = { 0, 2 * PAGE, PB_WRITE, 0 };

        set_present(0);
        set_present(1);
        cr_assert_str_eq(cut(client, &range, 1, false, true), "0:0+2/0");
}

TEST(piece, cursor_finds_missing_pages_in_order) {
        pb_client *client = setup();
        const struct pb_range ranges[] = { { 30 * PAGE + 5, 4 * PAGE, PB_READ, 0 }, { 70 * PAGE, 1, PB_READ, 0 } };
        struct cursor cursor = CURSOR(client, ranges, 2);
        struct missing missing;

        set_present(30);
        set_present(32);
        cr_assert(cursor_find_missing(&cursor, &missing));
        cr_assert_eq(missing.page, 31);
        cr_assert_eq(missing.memory, 0);
        cr_assert_eq(missing.word, &present0[0]);
        cr_assert_eq(missing.value, 1u << 30);
        cr_assert(cursor_find_missing(&cursor, &missing), "looking does not move past a missing page");
        cr_assert_eq(missing.page, 31);
        set_present(31);
        cr_assert(cursor_find_missing(&cursor, &missing));
        cr_assert_eq(missing.page, 33);
        set_present(33);
        set_present(34);
        cr_assert(cursor_find_missing(&cursor, &missing));
        cr_assert_eq(missing.memory, 1);
        cr_assert_eq(missing.page, 6);
        present1[0] = 1u << 6;
        cr_assert_not(cursor_find_missing(&cursor, &missing));
}

TEST(piece, finds_poison) {
        pb_client *client = setup();
        const struct pb_range ranges[] = { { 0, 64 * PAGE, PB_READ, 0 }, { 64 * PAGE, 32 * PAGE, PB_READ, 0 } };
        struct missing missing = { .page = 7777 };

        cr_assert_not(ranges_find_poison(client, ranges, 2, &missing));
        cr_assert_eq(missing.page, 7777);
        poison1[0] = 1u << 31;
        cr_assert(ranges_find_poison(client, ranges, 2, &missing));
        cr_assert_eq(missing.memory, 1);
        cr_assert_eq(missing.page, 31);
}

TEST(piece, checks_ranges_and_names_the_bad_one) {
        pb_client *client = setup();
        struct pb_range ranges[2] = { { 0, PAGE, PB_READ, 0 } };
        unsigned bad = 99;

        ranges[1] = (struct pb_range) { 0, PAGE, 0, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EINVAL);
        cr_assert_eq(bad, 1);
        ranges[1] = (struct pb_range) { 0, PAGE, 4, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EINVAL);
        ranges[1] = (struct pb_range) { 0, PAGE, PB_READ, 1 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EINVAL);
        ranges[1] = (struct pb_range) { 95 * PAGE, PAGE + 1, PB_READ, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EFAULT);
        ranges[1] = (struct pb_range) { UINT64_MAX, 2, PB_READ, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EFAULT);
        ranges[1] = (struct pb_range) { 0, UINT64_MAX, PB_READ, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EFAULT);
        client->prefix.may_write = 0;
        ranges[1] = (struct pb_range) { 0, PAGE, PB_WRITE, 0 };
        cr_assert_eq(ranges_check(client, ranges, 2, &bad), -EACCES);
}
