/* SPDX-License-Identifier: MIT */
/* Clients that want the same page while it is being fetched, and what happens when one of them dies. */
#include <errno.h>
#include <signal.h>
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

static void fixture_start(struct fixture *f) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 12, .n_pages = 256 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, ""), "--fill=off");
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

struct asker {
        const struct test_broker *broker;
        uint64_t first, n;
};

static int ask(void *arg) {
        const struct asker *asker = arg;
        pb_client *client = child_connect(asker->broker, PB_ROLE_DEVICE);

        CHILD_CHECK(client);
        CHILD_CHECK(ensure_is_right(client, images, asker->first * TEST_PAGE, asker->n * TEST_PAGE));
        return child_disconnect(client) ? 0 : 1;
}

TEST(join, two_clients_share_one_read) {
        struct ensure_call calls[2];
        struct fixture f;
        pb_client *other;

        fixture_start(&f);
        other = test_connect(&f.broker, PB_ROLE_DEVICE);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        ensure_start(&calls[0], f.client, 0, 4 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 0, 4 * TEST_PAGE, 1);
        ensure_start(&calls[1], other, 2 * TEST_PAGE, TEST_PAGE, PB_WRITE);
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 2));
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&calls[0]), 0);
        cr_assert_eq(ensure_wait(&calls[1]), 0);
        cr_assert(content_is_right(other, images, 2 * TEST_PAGE, TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 0, UINT64_MAX), 1);
        other = test_disconnect(other);
        fixture_stop(&f);
}

/* Who started the read dies; who joined it gets the page from that same read. */
TEST(join, killed_clients_fetch_goes_on_for_who_joined_it) {
        struct ensure_call call;
        struct fixture f;
        pid_t pid;

        fixture_start(&f);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        pid = test_child_start((uid_t) -1, ask, &(struct asker) { &f.broker, 8, 4 });
        test_gate_wait_held(&f.gate, 8 * TEST_PAGE, 4 * TEST_PAGE, 1);
        ensure_start(&call, f.client, 10 * TEST_PAGE, 4 * TEST_PAGE, PB_READ); /* 10, 11 joined, 12, 13 its own */
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 2));
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == 1));
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(f.client, images, 10 * TEST_PAGE, 4 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 10 * TEST_PAGE, 2 * TEST_PAGE), 1);
        cr_assert(ensure_is_right(f.client, images, 0, 256 * TEST_PAGE));
        fixture_stop(&f);
}

/* Who joined dies; who started it notices nothing. */
TEST(join, killed_client_that_had_joined_harms_nobody) {
        struct ensure_call call;
        struct fixture f;
        pid_t pid;

        fixture_start(&f);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        ensure_start(&call, f.client, 8 * TEST_PAGE, 4 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 8 * TEST_PAGE, 4 * TEST_PAGE, 1);
        pid = test_child_start((uid_t) -1, ask, &(struct asker) { &f.broker, 10, 40 });
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 2));
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == 1));
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(f.client, images, 8 * TEST_PAGE, 4 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0));
        cr_assert(ensure_is_right(f.client, images, 0, 256 * TEST_PAGE));
        fixture_stop(&f);
}

/* Nobody is left who wanted it: the answer may be installed or dropped, but the next who asks gets the page. */
TEST(join, page_whose_only_client_was_killed_comes_for_the_next) {
        struct fixture f;
        pid_t pid;

        fixture_start(&f);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        pid = test_child_start((uid_t) -1, ask, &(struct asker) { &f.broker, 0, 128 });
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == 1));
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0));
        cr_assert(ensure_is_right(f.client, images, 0, 256 * TEST_PAGE));
        fixture_stop(&f);
}

TEST(join, stopping_broker_fails_waiting_calls) {
        struct ensure_call call;
        struct fixture f;
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .reconnect_us = -1 };
        pb_client *other;

        fixture_start(&f);
        cr_assert_eq(pb_connect(&other, f.broker.address, &options), 0);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        ensure_start(&call, other, 0, TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 0, TEST_PAGE, 1);
        cr_assert(kill(f.broker.pid, SIGTERM) == 0);
        cr_assert_eq(ensure_wait(&call), -ECONNRESET);
        cr_assert_eq(pb_ensure(other, 0, 1, PB_READ), -ECONNRESET);
        test_gate_open(&f.gate); /* a process with a held read cannot end */
        (void) pb_disconnect(other);
        (void) pb_disconnect(f.client);
        cr_assert(EVENTUALLY(test_broker_is_dead(&f.broker)));
        test_broker_kill(&f.broker);
        test_gate_stop(&f.gate);
        test_image_unlink(&image);
}
