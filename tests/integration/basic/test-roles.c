/* SPDX-License-Identifier: MIT */
/* Who may come in as what, and what each role is given. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, const char *option, const char *option2) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 15, .n_pages = 256, .data_ppm = 700000 });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", option, option2);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

static int connect_result(const struct test_broker *broker, uint32_t role) {
        struct pb_options options = { .size = sizeof options, .role = role };
        pb_client *client = NULL;
        int r = pb_connect(&client, broker->address, &options);

        (void) pb_disconnect(client);
        return r;
}

struct visitor {
        const struct test_broker *broker;
        uint32_t role;
};

/* The exit status says how it went: 0, or the errno. */
static int visit(void *arg) {
        const struct visitor *visitor = arg;

        return -connect_result(visitor->broker, visitor->role);
}

static int visit_as(uid_t uid, const struct test_broker *broker, uint32_t role) {
        return test_run_as(uid, visit, &(struct visitor) { broker, role });
}

/* ---- device-ro ---- */

static int read_only_client(void *arg) {
        const struct test_broker *broker = arg;
        pb_client *client = child_connect(broker, PB_ROLE_DEVICE_RO);
        struct pb_region region;
        char path[64];

        CHILD_CHECK(client);
        CHILD_CHECK(ensure_is_right(client, images, 0, 256 * TEST_PAGE));
        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(region.flags & PB_REGION_READONLY);
        CHILD_CHECK(pb_ensure(client, 0, 1, PB_WRITE) == -EACCES);
        CHILD_CHECK(pb_ensure(client, 0, TEST_PAGE, PB_OVERWRITE) == -EACCES);
        CHILD_CHECK(pb_discard(client, 0, TEST_PAGE) == -EACCES);
        CHILD_CHECK(pb_set_fill(client, true) == -EACCES);
        CHILD_CHECK(pb_attach_vmm(client, NULL) == -EACCES);
        /* Not by another way either. */
        CHILD_CHECK(mprotect(region.addr, TEST_PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
        CHILD_CHECK(mmap(NULL, TEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0) == MAP_FAILED);
        CHILD_CHECK(pwrite(region.fd, "x", 1, 0) < 0 && errno == EBADF);
        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", region.fd);
        CHILD_CHECK(open(path, O_RDWR | O_CLOEXEC) < 0 && errno == EACCES);
        return child_disconnect(client) ? 0 : 1;
}

TEST(roles, read_only_device_reads_and_cannot_write) {
        struct test_broker broker;

        require_other_uid();
        start(&broker, "--allow=device-ro:65534", "--allow=vmm:0");
        cr_assert_eq(test_run_as(TEST_OTHER_UID, read_only_client, &broker), 0);
        stop(&broker);
}

TEST(roles, read_only_device_is_never_root_nor_the_brokers_own_user) {
        struct test_broker broker;

        require_other_uid();
        start(&broker, "--allow=observer:0", "--allow=device-ro:65534");
        cr_assert_eq(connect_result(&broker, PB_ROLE_DEVICE_RO), -EACCES);
        cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, PB_ROLE_DEVICE_RO), 0);
        stop(&broker);
        start(&broker, "--user=65534", "--allow=device-ro:65534");
        cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, PB_ROLE_DEVICE_RO), EACCES);
        stop(&broker);
}

/* ---- observer ---- */

TEST(roles, observer_gets_counters_and_no_memory) {
        struct test_broker broker;
        struct pb_region region;
        pb_client *client, *device;

        start(&broker, "--io=auto", "--seccomp=on");
        client = test_connect(&broker, PB_ROLE_OBSERVER);
        device = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure(device, 0, TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 1));
        cr_assert_eq(get_stats(client).pages_total, 256);
        region = get_region(client, 0);
        cr_assert_eq(region.fd, -1);
        cr_assert_eq(region.addr, NULL);
        cr_assert_eq(region.size, 256 * TEST_PAGE);
        cr_assert(!pb_is_present(client, 0, 1));
        cr_assert(pb_ensure(client, 0, 1, PB_READ) < 0);
        cr_assert(pb_discard(client, 0, TEST_PAGE) < 0);
        cr_assert_eq(pb_set_fill(client, true), -EACCES);
        cr_assert_eq(pb_attach_vmm(client, NULL), -EACCES);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 1));
        device = test_disconnect(device);
        client = pb_disconnect(client);
        stop(&broker);
}

/* ---- who ---- */

TEST(roles, nobody_but_root_and_the_brokers_user_without_an_allow_list) {
        struct test_broker broker;

        require_other_uid();
        start(&broker, "--io=auto", "--seccomp=on");
        for (uint32_t role = PB_ROLE_DEVICE; role <= PB_ROLE_OBSERVER; role++)
                cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, role), EACCES);
        cr_assert_eq(connect_result(&broker, PB_ROLE_VMM), 0);
        cr_assert(test_broker_will_log(&broker, "uid 65534 may not connect as vmm"));
        stop(&broker);
}

TEST(roles, allow_lets_in_that_user_as_that_role_only) {
        struct test_broker broker;

        require_other_uid();
        start(&broker, "--allow=device:65534", "--allow=observer:0");
        cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, PB_ROLE_DEVICE), 0);
        cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, PB_ROLE_VMM), EACCES);
        cr_assert_eq(visit_as(TEST_OTHER_UID, &broker, PB_ROLE_OBSERVER), EACCES);
        cr_assert_eq(visit_as(1, &broker, PB_ROLE_DEVICE), EACCES);
        cr_assert_eq(connect_result(&broker, PB_ROLE_OBSERVER), 0);
        cr_assert_eq(connect_result(&broker, PB_ROLE_DEVICE), -EACCES);
        stop(&broker);
}

#define SOME_GROUP 4711

struct member {
        const struct test_broker *broker;
        gid_t primary, supplementary;
};

/* The error of connecting as a device, as a user of these groups. */
static int visit_as_member(void *arg) {
        const struct member *member = arg;

        CHILD_CHECK(setgroups(1, &member->supplementary) == 0);
        CHILD_CHECK(setresgid(member->primary, member->primary, member->primary) == 0);
        CHILD_CHECK(setresuid(TEST_OTHER_UID, TEST_OTHER_UID, TEST_OTHER_UID) == 0);
        return -connect_result(member->broker, PB_ROLE_DEVICE);
}

static int visit_with_groups(const struct test_broker *broker, gid_t primary, gid_t supplementary) {
        struct member member = { .broker = broker, .primary = primary, .supplementary = supplementary };

        return test_run_as((uid_t) -1, visit_as_member, &member);
}

TEST(roles, allow_lets_in_members_of_a_group_and_nobody_else) {
        struct test_broker broker;

        require_other_uid();
        start(&broker, "--allow=device:@4711", "--allow=observer:0");
        cr_assert_eq(visit_with_groups(&broker, SOME_GROUP, TEST_OTHER_UID), 0, "its primary group");
        cr_assert_eq(visit_with_groups(&broker, TEST_OTHER_UID, SOME_GROUP), 0, "a supplementary group");
        cr_assert_eq(visit_with_groups(&broker, TEST_OTHER_UID, SOME_GROUP + 1), EACCES);
        cr_assert_eq(connect_result(&broker, PB_ROLE_DEVICE), -EACCES, "root is in no such group");
        stop(&broker);
}

TEST(roles, unknown_role_is_refused) {
        struct test_broker broker;

        start(&broker, "--io=auto", "--seccomp=on");
        cr_assert_eq(connect_result(&broker, 0), -EINVAL);
        cr_assert_eq(connect_result(&broker, 5), -EINVAL);
        stop(&broker);
}

TEST(roles, device_may_write_and_may_not_do_what_is_the_vmms) {
        struct test_broker broker;
        pb_client *device;

        start(&broker, "--io=auto", "--seccomp=on");
        device = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure(device, 0, TEST_PAGE, PB_WRITE);
        cr_assert_eq(pb_set_fill(device, true), -EACCES);
        cr_assert_eq(pb_attach_vmm(device, NULL), -EACCES);
        device = test_disconnect(device);
        stop(&broker);
}
