/* SPDX-License-Identifier: MIT */
/* The background fill: everything arrives, the map says so, and what fails is left for who asks. */
#include <errno.h>
#include <string.h>

#include "protocol/order.h"
#include "protocol/presence.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

static struct test_image image, image1;
static const struct test_image *const images[] = { &image, &image1 };

static void fill_everything(const char *more) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 16, .n_pages = 5120, .data_ppm = 500000 });
        test_image_make(&image1, &(struct test_image_spec) { .seed = 17, .n_pages = 1024 });
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, more), test_memory("ram1", &image1, more));
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert(EVENTUALLY(order_complete_load(&find_map("ram0")->complete)));
        cr_assert(EVENTUALLY(order_complete_load(&find_map("ram1")->complete)));
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 6144));
        cr_assert_eq(get_stats(client).faults_linked, 0);
        cr_assert_eq(get_stats(client).bytes_fetched,
                     (test_image_count_data(&image) + test_image_count_data(&image1)) * TEST_PAGE);
        cr_assert(pb_is_present(client, 0, 6144 * TEST_PAGE));
        cr_assert(content_is_right(client, images, 0, 6144 * TEST_PAGE));
        cr_assert(test_broker_will_log(&broker, "all pages are present"));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
        test_image_unlink(&image1);
}

TEST(fill, brings_everything_and_sets_the_completion_flag) {
        fill_everything("");
}

TEST(fill, brings_everything_on_huge_pages) {
        require_hugepages(12, HUGE_2M);
        fill_everything(",huge=2M");
}

TEST(fill, demand_completes_the_map_too) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 18, .n_pages = 300, .data_ppm = 500000 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure(client, 0, 299 * TEST_PAGE, PB_READ);
        cr_assert(!order_complete_load(&find_map("ram0")->complete));
        test_ensure(client, 0, 300 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(order_complete_load(&find_map("ram0")->complete)));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

struct fixture {
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
};

static void fixture_start_by(struct fixture *f, const char *fill, const char *io) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 19, .n_pages = 8192 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, ""), fill, "--source-retries=1", io);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

static void fixture_start(struct fixture *f, const char *fill) {
        fixture_start_by(f, fill, "--io=auto");
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

TEST(fill, starts_when_the_vmm_says_so) {
        struct fixture f;

        fixture_start(&f, "--fill=off");
        test_ensure(f.client, 0, TEST_PAGE, PB_READ);
        cr_assert_eq(test_gate_count(&f.gate, 0, UINT64_MAX), 1, "something was read that nobody asked for");
        cr_assert_eq(get_stats(f.client).fill, 0);
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        cr_assert(ensure_is_right(f.client, images, 0, 8192 * TEST_PAGE));
        fixture_stop(&f);
}

static uint64_t count_present(pb_client *client) {
        uint64_t n = 0;

        for (uint64_t page = 0; page < 8192; page++)
                n += pb_is_present(client, page * TEST_PAGE, TEST_PAGE);
        return n;
}

TEST(fill, stops_when_the_vmm_says_so_and_goes_on_again) {
        struct fixture f;
        uint64_t n;

        fixture_start(&f, "--fill=off");
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        cr_assert_eq(pb_set_fill(f.client, false), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).fill == 0));
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0));
        n = count_present(f.client);
        cr_assert(n < 8192);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_present == n)); /* counted after the bits are set */
        test_ensure(f.client, 8191 * TEST_PAGE, TEST_PAGE, PB_READ);   /* turns of the pager have passed */
        cr_assert(EVENTUALLY(get_stats(f.client).pages_present == n + 1));
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        cr_assert(ensure_is_right(f.client, images, 0, 8192 * TEST_PAGE));
        fixture_stop(&f);
}

TEST(fill, demand_goes_before_it) {
        struct fixture f;

        /* A FUSE connection takes 12 asynchronous reads, which the fill would have; the threads' are not of that kind. */
        fixture_start_by(&f, "--fill=off", "--io=threads");
        test_gate_hold(&f.gate, 0, 4096 * TEST_PAGE); /* the first half: where the fill begins and stays */
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        cr_assert(ensure_is_right(f.client, images, 8000 * TEST_PAGE, 100 * TEST_PAGE));
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        fixture_stop(&f);
}

/* Page 7 cannot be read: the fill brings all others and poisons nothing; who asks for it is told, or gets it when the
 * source has recovered. */
static void fill_around_page_7(struct fixture *f) {
        fixture_start(f, "--fill=off");
        test_gate_fail(&f->gate, 7 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_set_fill(f->client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f->client).pages_present == 8191));
        cr_assert(EVENTUALLY(get_stats(f->client).pages_in_flight == 0));
        cr_assert_eq(get_stats(f->client).pages_poisoned, 0);
        cr_assert(!get_stats(f->client).complete);
}

TEST(fill, never_poisons_and_demand_after_a_recovery_gets_the_page) {
        struct fixture f;

        fill_around_page_7(&f);
        test_gate_open(&f.gate);
        cr_assert(ensure_is_right(f.client, images, 0, 8192 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        fixture_stop(&f);
}

TEST(fill, never_poisons_and_demand_for_a_broken_page_does) {
        struct fixture f;

        fill_around_page_7(&f);
        cr_assert_eq(pb_ensure(f.client, 7 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 1);
        cr_assert(ensure_is_right(f.client, images, 8 * TEST_PAGE, 8184 * TEST_PAGE));
        cr_assert(!get_stats(f.client).complete);
        fixture_stop(&f);
}
