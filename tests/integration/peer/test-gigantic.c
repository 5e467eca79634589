/* SPDX-License-Identifier: MIT */
/* Memories of 1 GiB pages, of which one fault fetches all. */
#include <errno.h>

#include "tests/integration/peer/peer.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, const char *option) {
        require_root();
        require_uffd();
        require_hugepages(1, HUGE_1G);
        test_image_make(&image, &(struct test_image_spec) { .seed = 71, .n_pages = HUGE_1G / TEST_PAGE, .data_ppm = 2000 });
        TEST_BROKER_START(broker, test_memory("ram0", &image, ",huge=1G"), "--fill=off", option);
}

static int try_to_attach(void *arg) {
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_VMM };
        pb_client *client;

        CHILD_CHECK(pb_connect(&client, ((const struct test_broker *) arg)->address, &options) == 0);
        CHILD_CHECK(pb_attach_vmm(client, NULL) == -EOPNOTSUPP);
        (void) pb_disconnect(client);
        return 0;
}

TEST(gigantic, userfaultfd_is_refused_unless_asked_for_by_name) {
        struct test_broker broker;

        start(&broker, "--gigantic-faults=off");
        cr_assert_eq(test_run_as((uid_t) -1, try_to_attach, &broker), 0);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(gigantic, one_fault_brings_the_whole_page) {
        struct test_broker broker;
        const struct peer_task task = { .broker = &broker, .images = images, .run = peer_read_everything };

        start(&broker, "--gigantic-faults=on");
        peer_run(&task);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
