/* SPDX-License-Identifier: MIT */
#include "tests/lib/connect.h"

#include <criterion/criterion.h>
#include <string.h>

#include "common/macro.h"

pb_client *test_connect(const struct test_broker *broker, uint32_t role) {
        struct pb_options options = {
                .size = sizeof options,
                .role = role,
                .flags = PB_OPT_COUNT_LOST_WAKES,
                .slice_us = TEST_SLICE_US(broker),
        };
        pb_client *client;
        int r = pb_connect(&client, broker->address, &options);

        cr_assert(r >= 0, "pb_connect: %s", strerror(-r));
        return client;
}

uint64_t test_count_lost_wakes(pb_client *client) {
        struct pb_counters counters = { .size = sizeof counters };

        cr_assert(pb_get_counters(client, &counters) >= 0);
        return counters.lost_wakes;
}

pb_client *test_disconnect(pb_client *client) {
        cr_assert_eq(test_count_lost_wakes(client), 0, "a wake-up was lost");
        return pb_disconnect(client);
}

void test_ensure(pb_client *client, uint64_t gpa, size_t length, unsigned intent) {
        int r = pb_ensure(client, gpa, length, intent);

        cr_assert(r == 0, "pb_ensure(0x%llx, %zu): %s: %s", (unsigned long long) gpa, length, strerror(-r),
                  pb_explain(client));
}

/* Which region does the address lie in? */
static void find_region(pb_client *client, uint64_t gpa, struct pb_region *ret) {
        for (unsigned i = 0; pb_get_region(client, i, ret) >= 0; i++)
                if (gpa - ret->gpa < ret->size)
                        return;
        cr_assert_fail("no region at 0x%llx", (unsigned long long) gpa);
}

void test_ensure_and_check(pb_client *client, const struct test_image *image, uint64_t gpa, size_t length) {
        uint64_t first = gpa / TEST_PAGE * TEST_PAGE, end = align_up(gpa + length, TEST_PAGE);
        struct pb_region region;

        find_region(client, gpa, &region);
        cr_assert(end - region.gpa <= region.size);
        test_ensure(client, gpa, length, PB_READ);
        test_image_assert(image, (region.offset + first - region.gpa) / TEST_PAGE, (end - first) / TEST_PAGE,
                          (const char *) region.addr + (first - region.gpa));
}

void test_check_everything(pb_client *client, const struct test_image *const images[], size_t step) {
        struct pb_region region;

        for (unsigned i = 0; pb_get_region(client, i, &region) >= 0; i++)
                for (uint64_t done = 0; done < region.size; done += step)
                        test_ensure_and_check(client, images[region.memory], region.gpa + done,
                                              min_u64(step, region.size - done));
}
