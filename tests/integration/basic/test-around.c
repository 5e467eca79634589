/* SPDX-License-Identifier: MIT */
/* What cold reads take along, and what they do not hold up. */
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

#define N_PAGES 4096u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, pb_client **ret, const char *around) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = N_PAGES });
        test_image_require_cold(&image);
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", around);
        *ret = test_connect(broker, PB_ROLE_DEVICE);
}

static void stop(struct test_broker *broker, pb_client *client) {
        (void) test_disconnect(client);
        test_broker_stop(broker);
        test_image_unlink(&image);
}

TEST(around, neighbours_of_pages_wanted_one_after_the_other_come_along) {
        struct test_broker broker;
        pb_client *client;
        uint64_t asked = 0;

        start(&broker, &client, "--read-around=4M");
        for (uint64_t page = 0; page < N_PAGES; page++) {
                if (pb_is_present(client, page * TEST_PAGE, TEST_PAGE))
                        continue;
                test_ensure_and_check(client, &image, page * TEST_PAGE, TEST_PAGE);
                asked++;
        }
        cr_assert(asked < N_PAGES / 2, "%llu of %u pages had to be asked for", (unsigned long long) asked, N_PAGES);
        cr_assert(content_is_right(client, images, 0, (uint64_t) N_PAGES * TEST_PAGE));
        stop(&broker, client);
}

TEST(around, nothing_comes_along_if_that_is_asked_for) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, &client, "--read-around=4K");
        for (uint64_t page = 0; page < 64; page++)
                test_ensure_and_check(client, &image, page * TEST_PAGE, TEST_PAGE);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 64)); /* counted after the wake */
        stop(&broker, client);
}

/* The fill has one read under way, which does not come, and has queued more. */
TEST(around, demand_does_not_wait_for_the_fill) {
        struct test_broker broker;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 92, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 0, 64 * TEST_PAGE);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""));
        test_gate_wait_held(&gate, 0, 64 * TEST_PAGE, 1);
        client = test_connect(&broker, PB_ROLE_VMM);
        for (uint64_t page = 64; page < N_PAGES; page += 61)
                test_ensure_and_check(client, &image, page * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(test_gate_count(&gate, 0, 64 * TEST_PAGE), 1);
        test_gate_release(&gate, 0, 64 * TEST_PAGE);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert(content_is_right(client, images, 0, (uint64_t) N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}
