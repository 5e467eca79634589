/* SPDX-License-Identifier: MIT */
/* The fixture, and a broker between it and a gate. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/connect.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"

TEST(fixture, broker_starts_serves_and_stops) {
        const struct test_image *images[1];
        struct test_broker broker;
        struct test_image image;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 1, .n_pages = 1000, .data_ppm = 500000 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image));
        client = test_connect(&broker, PB_ROLE_DEVICE);
        images[0] = &image;
        test_check_everything(client, images, 12345);
        client = test_disconnect(client);
        cr_assert(test_broker_is_idle(&broker));
        cr_assert(test_broker_rss_kib(&broker) > 0);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(fixture, broker_takes_a_listening_socket) {
        const char *const args[] = { "--memory=ram0,size=1M", NULL };
        struct test_broker broker;
        pb_client *client;

        test_broker_start(&broker, &(struct test_broker_options) { .args = args, .activated = true });
        client = test_connect(&broker, PB_ROLE_OBSERVER);
        client = pb_disconnect(client);
        test_broker_stop(&broker);
}

TEST(fixture, refusal_is_told_with_its_reason) {
        const char *const args[] = { "--memory=ram0,size=1M,source=file:/nonexistent/image", NULL };
        char log[4096];

        cr_assert_neq(test_broker_refuses(args, log, sizeof log), 0);
        cr_assert(strstr(log, "/nonexistent/image"), "%s", log);
}

static void *ensure_first_page(void *client) {
        return (void *) (intptr_t) pb_ensure(client, 0, 1, PB_READ);
}

TEST(fixture, slow_page_delays_itself_only) {
        struct test_broker broker;
        struct test_image image;
        struct test_gate gate;
        pb_client *client;
        pthread_t thread;
        void *result;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 2, .n_pages = 1024 });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 0, TEST_PAGE);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(pthread_create(&thread, NULL, ensure_first_page, client) == 0);
        test_gate_wait_held(&gate, 0, TEST_PAGE, 1);
        test_ensure_and_check(client, &image, 2 << 20, 1 << 20);
        cr_assert(!pb_is_present(client, 0, 1));
        test_gate_release(&gate, 0, TEST_PAGE);
        cr_assert(pthread_join(thread, &result) == 0 && result == NULL);
        test_ensure_and_check(client, &image, 0, TEST_PAGE);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(fixture, failing_page_fails_with_its_reason) {
        struct test_broker broker;
        struct test_image image;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 3, .n_pages = 64 });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 5 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=1");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert_eq(pb_ensure(client, 5 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(client), strerror(EIO)), "%s", pb_explain(client));
        test_ensure_and_check(client, &image, 6 * TEST_PAGE, 58 * TEST_PAGE);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}
