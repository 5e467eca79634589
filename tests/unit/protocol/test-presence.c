/* SPDX-License-Identifier: MIT */
#include "protocol/presence.h"

#include "protocol/order.h"
#include "tests/lib/test.h"

TEST(presence, mask_covers_exactly_its_pages) {
        for (unsigned first = 0; first < 32; first++)
                for (unsigned last = first; last < 32; last++) {
                        uint32_t want = 0;

                        for (unsigned i = first; i <= last; i++)
                                want |= 1u << i;
                        cr_assert_eq(presence_mask(first, last), want);
                        cr_assert_eq(presence_mask(640 + first, 640 + last), want);
                }
}

TEST(presence, sizes_are_whole_pages_and_enough) {
        static const uint64_t pages[] = { 1, 31, 32, 33, 32768, 32769, 1ull << 28, PB_MEMORY_SIZE_MAX / PB_PAGE_BYTES };

        for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++) {
                uint64_t size = presence_bitmap_size(pages[i]);

                cr_assert_eq(size % PB_PAGE_BYTES, 0);
                cr_assert(size * 8 >= pages[i]);
                cr_assert(size * 8 < pages[i] + 2 * 8 * PB_PAGE_BYTES);
                cr_assert_eq(presence_map_size(pages[i]), PB_MAP_HEADER_SIZE + 2 * size);
        }
        cr_assert_eq(presence_bitmap_size(1ull << 28), 32ull << 20); /* 1 TiB */
}

TEST(presence, word_holds_32_pages) {
        cr_assert_eq(presence_word(31), 0);
        cr_assert_eq(presence_word(32), 1);
        cr_assert_eq(presence_word((1ull << 40) + 5), 1ull << 35);
}

TEST(presence, publish_adds_bits_and_returns_those_before) {
        uint32_t word = 5;

        cr_assert_eq(order_present_publish(&word, 2), 5);
        cr_assert_eq(order_present_load(&word), 7);
        order_poison_set(&word, 8);
        order_poison_clear(&word, 3);
        cr_assert_eq(order_poison_load(&word), 12);
}
