/* SPDX-License-Identifier: MIT */
#include "common/macro.h"
#include "tests/lib/test.h"

TEST(macro, range_fits_only_inside) {
        cr_assert(range_fits(0, 10, 10));
        cr_assert(range_fits(10, 0, 10));
        cr_assert(range_fits(3, 7, 10));
        cr_assert(!range_fits(3, 8, 10));
        cr_assert(!range_fits(11, 0, 10));
}

TEST(macro, range_fits_survives_every_overflow) {
        cr_assert(!range_fits(UINT64_MAX, 1, 10));
        cr_assert(!range_fits(1, UINT64_MAX, 10));
        cr_assert(!range_fits(UINT64_MAX, UINT64_MAX, UINT64_MAX - 1));
        cr_assert(!range_fits(5, UINT64_MAX - 4, 10));
        cr_assert(range_fits(0, UINT64_MAX, UINT64_MAX));
        cr_assert(!range_fits(1, UINT64_MAX, UINT64_MAX));
}

TEST(macro, alignment_goes_down_and_up) {
        cr_assert_eq(align_down(4095, 4096), 0);
        cr_assert_eq(align_down(4096, 4096), 4096);
        cr_assert_eq(align_up(1, 4096), 4096);
        cr_assert_eq(align_up(4096, 4096), 4096);
        cr_assert_eq(align_up(0, 4096), 0);
        cr_assert(is_aligned(2ull << 30, 1ull << 30));
        cr_assert(!is_aligned((2ull << 30) + 4096, 1ull << 30));
        cr_assert_eq(min_u64(1, UINT64_MAX), 1);
        cr_assert_eq(max_u64(1, UINT64_MAX), UINT64_MAX);
}

TEST(macro, container_is_found_from_its_member) {
        struct outer {
                int a;
                char b;
        } outer;

        cr_assert_eq(CONTAINER_OF(&outer.b, struct outer, b), &outer);
        cr_assert_eq(ELEMENTS(((int[7]) {})), 7);
}
