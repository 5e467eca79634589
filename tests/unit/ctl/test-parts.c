/* SPDX-License-Identifier: MIT */
/* Parts of pagebrokerctl that need no broker. */
#include <string.h>

#include "client/ctl/map-data.h"
#include "client/ctl/range.h"
#include "client/ctl/text.h"
#include "tests/lib/test.h"

TEST(text, sizes_and_durations_are_written_with_their_unit) {
        cr_assert_str_eq(text_size(0).s, "0 bytes");
        cr_assert_str_eq(text_size(1).s, "1 byte");
        cr_assert_str_eq(text_size(1536).s, "1.5 KiB");
        cr_assert_str_eq(text_size(UINT64_MAX).s, "16.0 EiB");
        cr_assert_str_eq(text_duration(999).s, "999 us");
        cr_assert_str_eq(text_duration(1500).s, "1.5 ms");
        cr_assert_str_eq(text_duration(59900000).s, "59.9 s");
        cr_assert_str_eq(text_duration(61000000).s, "1 min 1 s");
        cr_assert_str_eq(text_duration(2 * 3600000000ull).s, "2 h 0 min");
}

TEST(text, a_percentage_is_100_only_when_it_is_all) {
        cr_assert_str_eq(text_percent(0, 1000000).s, "0.0 %");
        cr_assert_str_eq(text_percent(1, 1000000).s, "0.1 %");
        cr_assert_str_eq(text_percent(999999, 1000000).s, "99.9 %");
        cr_assert_str_eq(text_percent(1000000, 1000000).s, "100.0 %");
        cr_assert_str_eq(text_percent(0, 0).s, "100.0 %");
}

TEST(text, sizes_are_read_with_suffixes_and_nothing_else) {
        static const char *const wrong[] = { "",   "K",         "-1",
                                             "+1", "1KB",       "1 K",
                                             "0x", "16777216T", "18446744073709551616" };
        uint64_t size = 7;

        cr_assert(text_parse_size("0x1000", &size) && size == 4096);
        cr_assert(text_parse_size("64M", &size) && size == 64 << 20);
        cr_assert(text_parse_size("16777215T", &size) && size == UINT64_MAX - (1ull << 40) + 1);
        for (unsigned i = 0; i < ELEMENTS(wrong); i++)
                cr_assert_not(text_parse_size(wrong[i], &size), "%s", wrong[i]);
}

TEST(text, nothing_reaches_the_terminal_as_a_command) {
        char long_name[1000];

        memset(long_name, 'x', sizeof long_name);
        long_name[sizeof long_name - 1] = 0;
        cr_assert_str_eq(text_safe("a\033[2J\b\n\x7f\xc3\xa4z").s, "a?[2J?????z");
        cr_assert_str_eq(text_safe(NULL).s, "");
        cr_assert_eq(strlen(text_safe(long_name).s), sizeof(struct text) - 1);
}

static unsigned sum(const unsigned heights[MAP_KINDS]) {
        unsigned total = 0;

        for (unsigned kind = 0; kind < MAP_KINDS; kind++)
                total += heights[kind];
        return total;
}

/* Every mixture of up to 5 pages of each kind, and one page among a million. */
TEST(map, a_bin_is_filled_and_hides_nothing) {
        unsigned heights[MAP_KINDS];

        for (unsigned code = 1; code < 6 * 6 * 6 * 6 * 6 * 6; code++) {
                struct map_bin bin;

                for (unsigned kind = 0, rest = code; kind < MAP_KINDS; kind++, rest /= 6)
                        bin.pages[kind] = rest % 6;
                map_bin_heights(&bin, 8, heights);
                cr_assert_eq(sum(heights), 8, "%u", code);
                for (unsigned kind = 0; kind < MAP_KINDS; kind++)
                        cr_assert_eq(heights[kind] > 0, bin.pages[kind] > 0, "%u", code);
        }
        map_bin_heights(&(struct map_bin) { .pages = { [MAP_ABSENT] = 1000000, [MAP_POISONED] = 1 } }, 8, heights);
        cr_assert(heights[MAP_POISONED] == 4 && heights[MAP_ABSENT] == 4);
        map_bin_heights(&(struct map_bin) {}, 8, heights);
        cr_assert_eq(sum(heights), 0);
}

TEST(map, one_letter_shows_what_is_wrong_first) {
        cr_assert_eq(map_bin_kind(&(struct map_bin) { .pages = { 100, 100, 50, 1, 100, 100 } }), MAP_POISONED);
        cr_assert_eq(map_bin_kind(&(struct map_bin) { .pages = { 100, 100, 1, 0, 100, 100 } }), MAP_IN_FLIGHT);
        cr_assert_eq(map_bin_kind(&(struct map_bin) { .pages = { 10, 9, 0, 0, 11, 3 } }), MAP_ABSENT);
        cr_assert_eq(map_bin_kind(&(struct map_bin) { .pages = { 1, 9, 0, 0, 2, 8 } }), MAP_ZERO);
}
