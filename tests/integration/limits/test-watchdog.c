/* SPDX-License-Identifier: MIT */
/* The supervisor's watchdog is fed while the pager gets round, and only then. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"
#include "tests/lib/thread.h"

/* It is looked after four times as often. */
#define WATCHDOG_USEC "400000"
#define SILENCE_MS 1000

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Waits for a message of the broker. False: none came in time. */
static bool is_fed_within(struct test_broker *broker, int timeout_ms) {
        struct pollfd p = { .fd = broker->notify, .events = POLLIN };
        char text[256];
        ssize_t n;

        if (poll(&p, 1, timeout_ms) != 1)
                return false;
        n = recv(broker->notify, text, sizeof text - 1, 0);
        cr_assert(n > 0);
        text[n] = 0;
        cr_assert_str_eq(text, "WATCHDOG=1");
        return true;
}

static bool is_fed(struct test_broker *broker) {
        return is_fed_within(broker, TEST_PATIENCE_US / USEC_PER_MSEC);
}

TEST(watchdog, is_fed_while_there_is_nothing_to_do) {
        struct test_broker broker;

        (void) setenv("WATCHDOG_USEC", WATCHDOG_USEC, 1);
        TEST_BROKER_START(&broker, "--memory=ram0,size=1M", "--fill=off");
        for (unsigned i = 0; i < 8; i++)
                cr_assert(is_fed(&broker));
        test_broker_stop(&broker);
}

TEST(watchdog, is_fed_while_a_source_does_not_answer) {
        struct ensure_call call;
        struct test_broker broker;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        (void) setenv("WATCHDOG_USEC", WATCHDOG_USEC, 1);
        test_image_make(&image, &(struct test_image_spec) { .seed = 71, .n_pages = 256 });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 0, 4096);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        ensure_start(&call, client, 0, TEST_PAGE, PB_READ);
        test_gate_wait_held(&gate, 0, 4096, 1);
        while (is_fed_within(&broker, 0))
                ;
        for (unsigned i = 0; i < 8; i++)
                cr_assert(is_fed(&broker));
        cr_assert_eq(test_gate_count_held(&gate, 0, 4096), 1);
        test_gate_release(&gate, 0, 4096);
        cr_assert_eq(ensure_wait(&call), 0);
        cr_assert(content_is_right(client, images, 0, TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

/* Stopped while it sleeps: it says that it is idle, and would never wake. */
TEST(watchdog, is_not_fed_while_the_pager_hangs_and_fed_again_when_it_goes_on) {
        struct test_broker broker;
        pid_t pager;
        int r;

        (void) setenv("WATCHDOG_USEC", WATCHDOG_USEC, 1);
        TEST_BROKER_START(&broker, "--memory=ram0,size=1M", "--fill=off");
        cr_assert(EVENTUALLY((pager = thread_find(broker.pid, "pager")) > 0)); /* it gives itself the name */
        cr_assert(is_fed(&broker));
        r = thread_stop(pager);
        if (r < 0)
                cr_skip_test("ptrace() is not allowed here: %s", strerror(-r));
        cr_assert(test_broker_will_log(&broker, "the pager makes no progress"));
        while (is_fed_within(&broker, 0))
                ;
        cr_assert(!is_fed_within(&broker, SILENCE_MS));
        thread_continue(pager);
        cr_assert(is_fed(&broker));
        cr_assert(test_broker_will_log(&broker, "the pager goes on"));
        test_broker_stop(&broker);
}

TEST(watchdog, is_not_fed_when_nobody_asked_for_it) {
        struct test_broker broker;

        (void) unsetenv("WATCHDOG_USEC");
        TEST_BROKER_START(&broker, "--memory=ram0,size=1M", "--fill=off");
        cr_assert(!is_fed_within(&broker, 0));
        cr_assert_eq(test_broker_logged(&broker, "watchdog"), false);
        test_broker_stop(&broker);
}
