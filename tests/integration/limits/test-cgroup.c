/* SPDX-License-Identifier: MIT */
/* Guest memory is charged to the broker's memory cgroup, whoever asked for it; and its limit is one. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/integration/limits/cgroup.h"

#define MIB (1ull << 20)
#define GUEST_SIZE (32 * MIB)

static struct test_image image;
static const struct test_image *const images[] = { &image };
static struct test_cgroup cgroup;

/* The kernel counts in batches of 64 pages for each processor that a process of the group runs on. */
static uint64_t batches(void) {
        return min_u64((uint64_t) sysconf(_SC_NPROCESSORS_ONLN) * 64 * TEST_PAGE, 3 * MIB);
}

/* A test that fails leaves the broker, which ends with it. */
static void clean_up(void) {
        if (cgroup.path[0])
                test_cgroup_remove(&cgroup);
}

static void start(struct test_broker *broker) {
        require_root();
        test_cgroup_make(&cgroup);
        test_image_make(&image, &(struct test_image_spec) { .seed = 93, .n_pages = GUEST_SIZE / TEST_PAGE });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", "--memory-headroom=0");
        test_cgroup_enter(&cgroup, broker->pid);
}

TEST(cgroup, of_the_broker_is_charged_for_what_it_installs) {
        struct test_broker broker;
        uint64_t before, half, all;
        pb_client *client;

        start(&broker);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        before = test_cgroup_current(&cgroup);
        cr_assert(ensure_is_right(client, images, 0, GUEST_SIZE / 2));
        half = test_cgroup_current(&cgroup);
        cr_assert(ensure_is_right(client, images, GUEST_SIZE / 2, GUEST_SIZE / 2));
        all = test_cgroup_current(&cgroup);
        /* Besides, page tables and the kernel's objects: some per cent. */
        cr_assert(half - before >= 15 * MIB - batches() && half - before < 20 * MIB + batches(), "%llu bytes for 16 MiB",
                  (unsigned long long) (half - before));
        cr_assert(all - half >= 15 * MIB - batches() && all - half < 20 * MIB + batches(), "%llu bytes for 16 MiB",
                  (unsigned long long) (all - half));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        clean_up();
        test_image_unlink(&image);
}

/* A command that enters the cgroup before the broker is started. */
static void make_wrapper(char path[64]) {
        FILE *f;

        if (getenv("PAGEBROKERD_WRAPPER"))
                cr_skip_test("$PAGEBROKERD_WRAPPER is in use");
        (void) snprintf(path, 64, "/tmp/pagebroker-enter-%d", (int) getpid());
        f = fopen(path, "we");
        cr_assert(f && fprintf(f, "#!/bin/sh\necho $$ >%s/cgroup.procs\nexec \"$@\"\n", cgroup.path) > 0);
        cr_assert(fclose(f) == 0 && chmod(path, 0755) == 0);
        (void) setenv("PAGEBROKERD_WRAPPER", path, 1);
}

TEST(cgroup, that_is_nearly_full_is_an_error_with_the_reason_until_its_limit_is_raised) {
        struct test_broker broker;
        char wrapper[64];
        uint64_t offset;
        pb_client *client;
        int r = 0;

        require_root();
        test_cgroup_make(&cgroup);
        make_wrapper(wrapper);
        test_image_make(&image, &(struct test_image_spec) { .seed = 94, .n_pages = GUEST_SIZE / TEST_PAGE });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off", "--memory-headroom=4M");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_cgroup_set_max(&cgroup, test_cgroup_current(&cgroup) + 16 * MIB);
        for (offset = 0; offset < GUEST_SIZE && r == 0; offset += MIB)
                r = pb_ensure(client, offset, MIB, PB_READ);
        cr_assert_eq(r, -ENOMEM, "%s", strerror(-r));
        cr_assert(strstr(pb_explain(client), "no memory"), "%s", pb_explain(client));
        cr_assert(offset > 4 * MIB && offset <= 14 * MIB + batches(), "%llu bytes went in", (unsigned long long) offset);
        cr_assert(test_broker_will_log(&broker, "the memory cgroup is full"));
        cr_assert(!test_broker_is_dead(&broker));
        cr_assert(content_is_right(client, images, 0, offset - MIB));
        test_cgroup_set_max(&cgroup, test_cgroup_current(&cgroup) + 2 * GUEST_SIZE);
        cr_assert(ensure_is_right(client, images, 0, GUEST_SIZE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        clean_up();
        (void) unlink(wrapper);
        test_image_unlink(&image);
}

/* The kernel ends a process of a cgroup that is full. That is the broker, if it does not look: what is present stays and is right, what is
 * not is never shown as something else. */
TEST(cgroup, that_is_full_ends_a_broker_that_does_not_look_and_shows_no_wrong_page) {
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .reconnect_us = 1 };
        struct test_broker broker;
        struct pb_region region;
        pb_client *client;
        uint64_t offset;
        int r = 0;

        start(&broker);
        cr_assert(pb_connect(&client, broker.address, &options) == 0);
        cr_assert(pb_get_region(client, 0, &region) == 0);
        test_cgroup_set_max(&cgroup, test_cgroup_current(&cgroup) + 8 * MIB);
        for (offset = 0; offset < GUEST_SIZE && r == 0; offset += MIB)
                r = pb_ensure(client, region.gpa + offset, MIB, PB_READ);
        cr_assert_eq(r, -ECONNRESET, "%s", strerror(-r));
        cr_assert(offset > MIB && offset <= 10 * MIB + batches(), "%llu bytes went in", (unsigned long long) offset);
        cr_assert(poll(&(struct pollfd) { .fd = broker.pidfd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) == 1);
        for (uint64_t page = 0; page < GUEST_SIZE / TEST_PAGE; page++)
                if (pb_is_present(client, region.gpa + page * TEST_PAGE, TEST_PAGE))
                        cr_assert(content_is_right(client, images, page * TEST_PAGE, TEST_PAGE), "page %llu",
                                  (unsigned long long) page);
        for (uint64_t page = (10 * MIB + batches()) / TEST_PAGE; page < GUEST_SIZE / TEST_PAGE; page++)
                cr_assert(!pb_is_present(client, region.gpa + page * TEST_PAGE, TEST_PAGE));
        client = pb_disconnect(client);
        test_broker_kill(&broker);
        clean_up();
        test_image_unlink(&image);
}
