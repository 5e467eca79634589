/* SPDX-License-Identifier: MIT */
/* A source whose reads fail, come short, or never come. */
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
};

static void fixture_start(struct fixture *f, const char *option, const char *option2) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 51, .n_pages = 1024 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, ""), "--fill=off", option, option2);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

static void one_bad_page(const char *io) {
        struct fixture f;
        const char *text;

        fixture_start(&f, "--source-retries=2", io);
        test_gate_fail(&f.gate, 100 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 64 * TEST_PAGE, 64 * TEST_PAGE, PB_READ), -EIO);
        text = pb_explain(f.client);
        cr_assert(strstr(text, "offset 0x64000 of memory 'ram0'"), "%s", text);
        cr_assert(strstr(text, f.gate.path), "%s", text);
        cr_assert(strstr(text, "Input/output error"), "%s", text);
        cr_assert_eq(test_gate_count(&f.gate, 100 * TEST_PAGE, TEST_PAGE), 3);
        cr_assert(test_broker_will_log(&f.broker, "memory ram0: page 100 (offset 0x64000)"));
        /* All others come, its neighbours in the failed read too. */
        cr_assert(ensure_is_right(f.client, images, 0, 100 * TEST_PAGE));
        cr_assert(ensure_is_right(f.client, images, 101 * TEST_PAGE, 923 * TEST_PAGE));
        cr_assert_eq(get_stats(f.client).pages_poisoned, 1);
        /* It stays poisoned, for others too, without another read. */
        cr_assert_eq(pb_ensure(f.client, 100 * TEST_PAGE, 1, PB_WRITE), -EIO);
        cr_assert_eq(test_gate_count(&f.gate, 100 * TEST_PAGE, TEST_PAGE), 3);
        fixture_stop(&f);
}

TEST(trouble, page_that_cannot_be_read_is_poisoned_alone_by_io_uring) {
        require_io_uring();
        one_bad_page("--io=uring");
}

TEST(trouble, page_that_cannot_be_read_is_poisoned_alone_by_threads) {
        one_bad_page("--io=threads");
}

TEST(trouble, error_that_goes_away_within_the_retries_is_not_seen) {
        struct fixture f;

        fixture_start(&f, "--source-retries=3", "--io=auto");
        test_gate_fail(&f.gate, 100 * TEST_PAGE, TEST_PAGE, EIO, (struct test_gate_turns) { .times = 3 });
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 64 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 100 * TEST_PAGE, TEST_PAGE), 4);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        fixture_stop(&f);
}

/* 100 tries would take a minute. */
TEST(trouble, deadline_of_the_class_ends_the_tries) {
        struct fixture f;

        fixture_start(&f, "--source-retries=100", "--source-deadline=device:0.2");
        test_gate_fail(&f.gate, 100 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert_lt(test_gate_count(&f.gate, 100 * TEST_PAGE, TEST_PAGE), 20);
        fixture_stop(&f);
}

TEST(trouble, all_who_wait_for_a_bad_page_are_told) {
        struct ensure_call calls[4];
        struct fixture f;
        pb_client *others[4];

        fixture_start(&f, "--source-retries=0", "--io=auto");
        test_gate_fail(&f.gate, 10 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        test_gate_hold(&f.gate, 10 * TEST_PAGE, TEST_PAGE);
        for (unsigned i = 0; i < 4; i++) {
                others[i] = test_connect(&f.broker, PB_ROLE_DEVICE);
                ensure_start(&calls[i], others[i], 10 * TEST_PAGE, 1, PB_READ);
        }
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 4));
        test_gate_release(&f.gate, 10 * TEST_PAGE, TEST_PAGE);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(ensure_wait(&calls[i]), -EIO);
                cr_assert(strstr(calls[i].reason, "Input/output error"), "%s", calls[i].reason);
                others[i] = test_disconnect(others[i]);
        }
        cr_assert(ensure_is_right(f.client, images, 0, 10 * TEST_PAGE));
        fixture_stop(&f);
}

/* 100 bytes, and later a page and 100 bytes: what is whole is used, the rest asked for again. */
TEST(trouble, short_reads_are_completed) {
        struct fixture f;

        fixture_start(&f, "--source-retries=3", "--io=auto");
        test_gate_cut(&f.gate, 0, 4 * TEST_PAGE, 100, TEST_GATE_ONCE);
        test_gate_cut(&f.gate, 64 * TEST_PAGE, 4 * TEST_PAGE, TEST_PAGE + 100, TEST_GATE_ONCE);
        cr_assert(ensure_is_right(f.client, images, 0, 4 * TEST_PAGE));
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 4 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 64 * TEST_PAGE, TEST_PAGE), 1, "a page that had come was read again");
        fixture_stop(&f);
}

TEST(trouble, source_that_ends_early_is_an_error) {
        struct fixture f;

        fixture_start(&f, "--source-retries=1", "--io=auto");
        test_gate_cut(&f.gate, 512 * TEST_PAGE, 512 * TEST_PAGE, 0, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 600 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(f.client), "ended before its own size"), "%s", pb_explain(f.client));
        cr_assert(ensure_is_right(f.client, images, 0, 512 * TEST_PAGE));
        fixture_stop(&f);
}

/* ---- never ---- */

static void never_answers(const char *io) {
        struct ensure_call call;
        struct fixture f;

        /* Long enough for reads that are answered, on a machine that has other things to do. */
        fixture_start(&f, "--source-timeout=0.5", io);
        test_gate_hold(&f.gate, 0, 64 * TEST_PAGE);
        ensure_start(&call, f.client, 5 * TEST_PAGE, 3 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 5 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 64 * TEST_PAGE)); /* others are served meanwhile */
        cr_assert_eq(ensure_wait(&call), -EIO);
        cr_assert(strstr(call.reason, "did not answer in time"), "%s", call.reason);
        cr_assert(EVENTUALLY(test_gate_count(&f.gate, 5 * TEST_PAGE, TEST_PAGE) == 4));
        cr_assert(ensure_is_right(f.client, images, 128 * TEST_PAGE, 800 * TEST_PAGE));
        test_gate_open(&f.gate); /* the late answers find nobody */
        cr_assert_eq(pb_ensure(f.client, 5 * TEST_PAGE, 1, PB_READ), -EIO);
        fixture_stop(&f);
}

TEST(trouble, source_that_never_answers_is_eio_by_io_uring) {
        require_io_uring();
        never_answers("--io=uring");
}

TEST(trouble, source_that_never_answers_is_eio_by_threads) {
        never_answers("--io=threads");
}

/* A silent read may hold a worker, or one of the 12 places that a FUSE connection has for asynchronous reads; however many
 * there are, they must not hold the pager. */
static void many_silent_reads(const char *io, bool connection_has_room) {
        struct pb_completion completions[20];
        struct fixture f;
        int n = 0;

        fixture_start(&f, "--source-timeout=0.5", io);
        test_gate_hold(&f.gate, 0, 512 * TEST_PAGE);
        for (uint64_t i = 0; i < 20; i++) {
                const struct pb_range range = { .gpa = i * 16 * TEST_PAGE, .len = TEST_PAGE, .intent = PB_READ };

                cr_assert_eq(pb_submit(f.client, &range, 1, i), 0);
        }
        test_gate_wait_held(&f.gate, 0, 512 * TEST_PAGE, 8);
        if (connection_has_room)
                cr_assert(ensure_is_right(f.client, images, 512 * TEST_PAGE, 512 * TEST_PAGE));
        for (uint64_t i = 0; i < 20; i++)
                test_ensure(f.client, (i * 16 + 8) * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY((n += pb_reap(f.client, completions, 20)) >= 20));
        fixture_stop(&f);
}

TEST(trouble, many_silent_reads_do_not_stop_the_pager_by_io_uring) {
        require_io_uring();
        many_silent_reads("--io=uring", false);
}

TEST(trouble, many_silent_reads_do_not_stop_the_others_by_threads) {
        many_silent_reads("--io=threads", true);
}

/* More silent reads than there are buffers: everybody is told, nobody waits for a buffer for ever. */
TEST(trouble, silence_of_every_read_is_eio_for_all) {
        static struct ensure_call calls[60];
        static pb_client *clients[60];
        struct fixture f;

        fixture_start(&f, "--source-timeout=0.3", "--source-retries=3");
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        for (unsigned i = 0; i < 60; i++) {
                clients[i] = test_connect(&f.broker, PB_ROLE_DEVICE);
                ensure_start(&calls[i], clients[i], i * 16 * TEST_PAGE, TEST_PAGE, PB_READ);
        }
        for (unsigned i = 0; i < 60; i++)
                cr_assert_eq(ensure_wait(&calls[i]), -EIO, "%u", i);
        test_gate_open(&f.gate);
        for (unsigned i = 0; i < 60; i++) {
                cr_assert(ensure_is_right(f.client, images, (i * 16 + 1) * TEST_PAGE, 15 * TEST_PAGE));
                clients[i] = pb_disconnect(clients[i]);
        }
        fixture_stop(&f);
}

TEST(trouble, client_with_a_timeout_gives_up_and_the_page_still_comes) {
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .timeout_us = 20000 };
        struct fixture f;
        pb_client *hasty;

        fixture_start(&f, "--source-retries=0", "--io=auto");
        cr_assert(pb_connect(&hasty, f.broker.address, &options) == 0);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        cr_assert_eq(pb_ensure(hasty, 0, TEST_PAGE, PB_READ), -ETIMEDOUT);
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(pb_is_present(hasty, 0, TEST_PAGE)));
        cr_assert(content_is_right(hasty, images, 0, TEST_PAGE));
        hasty = pb_disconnect(hasty);
        fixture_stop(&f);
}
