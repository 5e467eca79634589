/* SPDX-License-Identifier: MIT */
/* Answers that come after they have been given up: thrown away, whatever they hold. */
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

/* The first read of page 8 is held, and wrong. */
static void fixture_start(struct fixture *f, const char *huge, const char *io) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 61, .n_pages = 512 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, huge), "--fill=off", "--source-timeout=0.3",
                          "--source-retries=100", "--verbose", io);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
        f->memory = get_region(f->client, 0).addr;
        test_gate_lie(&f->gate, 8 * TEST_PAGE, TEST_PAGE, TEST_GATE_ONCE);
        test_gate_hold_turns(&f->gate, 8 * TEST_PAGE, TEST_PAGE, TEST_GATE_ONCE);
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

static void late_answer(const char *huge, const char *io) {
        struct fixture f;

        fixture_start(&f, huge, io);
        /* The second read, after the time-out, brings the page; on a machine that is too slow for the time-out, a later one. */
        cr_assert(ensure_is_right(f.client, images, 6 * TEST_PAGE, 4 * TEST_PAGE));
        cr_assert_geq(test_gate_count(&f.gate, 8 * TEST_PAGE, TEST_PAGE), 2);
        memset(f.memory + 7 * TEST_PAGE, 'g', TEST_PAGE); /* the guest goes on writing */
        test_gate_release(&f.gate, 8 * TEST_PAGE, TEST_PAGE);
        cr_assert(test_broker_will_log(&f.broker, "a late answer"));
        cr_assert(content_is_right(f.client, images, 8 * TEST_PAGE, TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 6 * TEST_PAGE, TEST_PAGE));
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(f.memory[7 * TEST_PAGE + i], 'g');
        cr_assert(ensure_is_right(f.client, images, 100 * TEST_PAGE, 400 * TEST_PAGE));
        fixture_stop(&f);
}

TEST(late, answer_after_the_second_is_thrown_away_by_io_uring) {
        require_io_uring();
        late_answer("", "--io=uring");
}

TEST(late, answer_after_the_second_is_thrown_away_by_threads) {
        late_answer("", "--io=threads");
}

TEST(late, answer_after_the_second_is_thrown_away_on_huge_pages) {
        require_hugepages(1, HUGE_2M);
        late_answer(",huge=2M", "--io=auto");
}

/* The first answer comes while the second read is under way: it is not the one that is waited for. */
TEST(late, answer_before_the_second_is_thrown_away_too) {
        struct ensure_call call;
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        ensure_start(&call, f.client, 8 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 8 * TEST_PAGE, TEST_PAGE, 1);
        /* Reads of page 8 stay from now on, the second one too, which is right. */
        test_gate_hold(&f.gate, 8 * TEST_PAGE + 4095, 1);
        test_gate_wait_held(&f.gate, 8 * TEST_PAGE, TEST_PAGE, 2);
        test_gate_open(&f.gate); /* answers both, the first first */
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(test_broker_will_log(&f.broker, "a late answer"));
        cr_assert(content_is_right(f.client, images, 8 * TEST_PAGE, TEST_PAGE));
        fixture_stop(&f);
}
