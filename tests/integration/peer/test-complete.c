/* SPDX-License-Identifier: MIT */
/* Done is free: with everything present no mapping is under userfaultfd any more. */
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/peer/peer.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Is the mapping at `addr` registered with a userfaultfd? VmFlags "um" (missing), "ui" (minor). */
static bool is_registered(const void *addr) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/smaps", "re");
        bool here = false;
        char line[512];

        while (f && fgets(line, sizeof line, f)) {
                unsigned long begin, end;

                if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
                        here = (unsigned long) addr >= begin && (unsigned long) addr < end;
                else if (here && strncmp(line, "VmFlags:", 8) == 0)
                        return strstr(line, " um ") || strstr(line, " ui ");
        }
        return false;
}

static int read_until_complete(pb_client *client, const struct peer_task *task) {
        const char *memory = peer_memory(client);

        CHILD_CHECK(is_registered(memory));
        CHILD_CHECK(content_is_right(client, task->images, 0, 10 * TEST_PAGE));
        CHILD_CHECK(pb_set_fill(client, true) == 0);
        CHILD_CHECK(EVENTUALLY(!is_registered(memory)));
        return peer_read_everything(client, task);
}

static int read_unregistered(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(!is_registered(peer_memory(client)));
        return peer_read_everything(client, task);
}

static void complete(const char *huge) {
        struct peer_task task = { .images = images, .run = read_until_complete };
        struct test_broker broker;
        pb_client *client;
        uint64_t faults;

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .seed = 95, .n_pages = 4096, .data_ppm = 600000 });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, huge), "--fill=off");
        task.broker = &broker;
        client = test_connect(&broker, PB_ROLE_VMM);
        peer_run(&task);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        /* One that comes now works, and waits for nothing. */
        faults = get_stats(client).faults_peer;
        task.run = read_unregistered;
        peer_run(&task);
        cr_assert_eq(get_stats(client).faults_peer, faults);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(complete, releases_the_userfaultfds_and_a_later_peer_works) {
        complete("");
}

TEST(complete, releases_the_userfaultfds_on_huge_pages) {
        require_hugepages(8, HUGE_2M);
        complete(",huge=2M");
}

/* Reads while the fill runs: who is first brings the page, the other finds it. */
TEST(complete, peers_read_while_the_fill_runs) {
        struct peer_task task = { .images = images, .run = peer_read_everything, .shards = 2 };
        struct test_broker broker;
        pid_t pids[2];

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .seed = 96, .n_pages = 8192, .data_ppm = 600000 });
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image));
        task.broker = &broker;
        for (unsigned i = 0; i < 2; i++)
                pids[i] = peer_start(&task);
        for (unsigned i = 0; i < 2; i++)
                cr_assert_eq(test_child_wait(pids[i]), 0);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
