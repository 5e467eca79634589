/* SPDX-License-Identifier: MIT */
/* PB_OVERWRITE: no fetch for what is going to be written anyway. And hints. */
#include <errno.h>
#include <string.h>

#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct fixture {
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
        char *memory;
};

static void fixture_start(struct fixture *f, const char *more, const char *option) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 13, .n_pages = 1024 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, more), "--fill=off", option);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
        f->memory = get_region(f->client, 0).addr;
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

static void check_whole_pages(struct fixture *f) {
        test_ensure(f->client, 10 * TEST_PAGE, 100 * TEST_PAGE, PB_OVERWRITE);
        cr_assert_eq(test_gate_count(&f->gate, 0, UINT64_MAX), 0);
        cr_assert(is_zero(f->memory + 10 * TEST_PAGE, 100 * TEST_PAGE));
        cr_assert(ensure_is_right(f->client, images, 0, 10 * TEST_PAGE));
        cr_assert(ensure_is_right(f->client, images, 110 * TEST_PAGE, 50 * TEST_PAGE));
        cr_assert(is_zero(f->memory + 10 * TEST_PAGE, 100 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f->gate, 10 * TEST_PAGE, 100 * TEST_PAGE), 0);
}

TEST(overwrite, whole_pages_are_zeros_without_a_read) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        check_whole_pages(&f);
        fixture_stop(&f);
}

TEST(overwrite, whole_pages_inside_a_huge_page_are_zeros_without_a_read) {
        struct fixture f;

        require_hugepages(2, HUGE_2M);
        fixture_start(&f, ",huge=2M", "--io=auto");
        check_whole_pages(&f);
        fixture_stop(&f);
}

TEST(overwrite, partial_pages_at_both_ends_are_fetched) {
        struct fixture f;
        unsigned char want[TEST_PAGE];

        fixture_start(&f, "", "--io=auto");
        test_ensure(f.client, 10 * TEST_PAGE + 100, 4 * TEST_PAGE, PB_OVERWRITE); /* 10 and 14 in part */
        cr_assert_eq(test_gate_count(&f.gate, 10 * TEST_PAGE, TEST_PAGE), 1);
        cr_assert_eq(test_gate_count(&f.gate, 11 * TEST_PAGE, 3 * TEST_PAGE), 0);
        cr_assert_eq(test_gate_count(&f.gate, 14 * TEST_PAGE, TEST_PAGE), 1);
        memset(f.memory + 10 * TEST_PAGE + 100, 'x', 4 * TEST_PAGE);
        test_image_fill(&image, 10, want);
        cr_assert(memcmp(want, f.memory + 10 * TEST_PAGE, 100) == 0);
        test_image_fill(&image, 14, want);
        cr_assert(memcmp(want + 100, f.memory + 14 * TEST_PAGE + 100, TEST_PAGE - 100) == 0);
        fixture_stop(&f);
}

TEST(overwrite, inside_one_page_fetches_it) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        test_ensure(f.client, 10 * TEST_PAGE + 1, TEST_PAGE - 2, PB_OVERWRITE);
        cr_assert(content_is_right(f.client, images, 10 * TEST_PAGE, TEST_PAGE));
        fixture_stop(&f);
}

TEST(overwrite, leaves_present_pages_alone) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        test_ensure(f.client, 10 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_ensure(f.client, 9 * TEST_PAGE, 3 * TEST_PAGE, PB_OVERWRITE);
        cr_assert(content_is_right(f.client, images, 10 * TEST_PAGE, TEST_PAGE));
        cr_assert(is_zero(f.memory + 9 * TEST_PAGE, TEST_PAGE));
        cr_assert(is_zero(f.memory + 11 * TEST_PAGE, TEST_PAGE));
        fixture_stop(&f);
}

/* Does not wait for the read of somebody else, and that read's late answer does not undo it. */
TEST(overwrite, takes_a_page_from_a_read_under_way) {
        struct ensure_call call;
        struct fixture f;
        pb_client *reader;

        fixture_start(&f, "", "--verbose");
        reader = test_connect(&f.broker, PB_ROLE_DEVICE);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        ensure_start(&call, reader, 10 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 10 * TEST_PAGE, TEST_PAGE, 1);
        test_ensure(f.client, 10 * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        memset(f.memory + 10 * TEST_PAGE, 'n', TEST_PAGE);
        cr_assert_eq(ensure_wait(&call), 0, "who waited for the page waits for the read");
        test_gate_open(&f.gate);
        cr_assert(test_broker_will_log(&f.broker, "a late answer"));
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(f.memory[10 * TEST_PAGE + i], 'n');
        reader = test_disconnect(reader);
        fixture_stop(&f);
}

TEST(overwrite, heals_a_poisoned_page) {
        struct fixture f;

        fixture_start(&f, "", "--source-retries=0");
        test_gate_fail(&f.gate, 0, UINT64_MAX, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 0, 1, PB_READ), -EIO);
        test_ensure(f.client, 0, TEST_PAGE, PB_OVERWRITE);
        cr_assert(is_zero(f.memory, TEST_PAGE));
        test_ensure(f.client, 0, TEST_PAGE, PB_READ);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        fixture_stop(&f);
}

/* ---- prefetch ---- */

TEST(prefetch, brings_pages_without_being_waited_for) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        cr_assert_eq(pb_prefetch(f.client, 0, 256 * TEST_PAGE), 0);
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        cr_assert(!pb_is_present(f.client, 0, TEST_PAGE));
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(pb_is_present(f.client, 0, 256 * TEST_PAGE)));
        cr_assert(content_is_right(f.client, images, 0, 256 * TEST_PAGE));
        cr_assert_eq(get_stats(f.client).faults_linked, 0);
        fixture_stop(&f);
}

TEST(prefetch, outside_is_refused) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        cr_assert_eq(pb_prefetch(f.client, 1024 * TEST_PAGE, TEST_PAGE), -EFAULT);
        fixture_stop(&f);
}

TEST(prefetch, that_fails_poisons_nothing) {
        struct fixture f;

        fixture_start(&f, "", "--source-retries=0");
        test_gate_fail(&f.gate, 0, UINT64_MAX, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_prefetch(f.client, 0, 8 * TEST_PAGE), 0);
        test_gate_wait_answered(&f.gate, 0, UINT64_MAX, 1);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0));
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        test_gate_open(&f.gate);
        cr_assert(ensure_is_right(f.client, images, 0, 8 * TEST_PAGE));
        fixture_stop(&f);
}

/* The hint's read fails; the demand that had joined it gets its own tries rather than the hint's last. */
TEST(prefetch, that_fails_under_a_demand_is_tried_again_for_it) {
        struct ensure_call call;
        struct fixture f;

        fixture_start(&f, "", "--source-retries=0");
        test_gate_fail(&f.gate, 0, UINT64_MAX, EIO, TEST_GATE_ONCE);
        test_gate_hold_turns(&f.gate, 0, UINT64_MAX, TEST_GATE_ONCE);
        cr_assert_eq(pb_prefetch(f.client, 0, 8 * TEST_PAGE), 0);
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        ensure_start(&call, f.client, 0, 8 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 1));
        test_gate_release(&f.gate, 0, UINT64_MAX);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(f.client, images, 0, 8 * TEST_PAGE));
        fixture_stop(&f);
}
