/* SPDX-License-Identifier: MIT */
/* When all of a memory is there, the process that read it from a server ends, and nobody needs that server any more. */
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 512u
#define LAST ((N_PAGES - 1) * TEST_PAGE)
#define DIMM_GPA (1ull << 32)
#define SIZE ((uint64_t) N_PAGES * TEST_PAGE)

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void prepare(struct test_nbd *nbd) {
        require_program("nbdkit");
        test_image_make(&image, &(struct test_image_spec) { .seed = 411, .n_pages = N_PAGES, .data_ppm = 800000 });
        test_nbd_prepare(nbd);
        TEST_NBDKIT(nbd, "file", image.path);
}

/* Those that have ended and are not waited for, too. */
static unsigned count_children(pid_t pid) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[64];
        unsigned n = 0;
        int child;

        (void) snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int) pid, (int) pid);
        f = fopen(path, "re");
        if (!f)
                cr_skip_test("the kernel does not tell a process's children (CONFIG_PROC_CHILDREN)");
        while (fscanf(f, "%d", &child) == 1)
                n++;
        return n;
}

/* What a test may do with a memory whose helper is gone: everything. */
static void is_whole(struct test_broker *broker, pb_client *client) {
        static const char zeros[TEST_PAGE];
        pb_client *late;

        cr_assert(content_is_right(client, images, 0, SIZE));
        late = test_connect(broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(late, images, 0, SIZE));
        cr_assert_eq(pb_discard(client, 0, TEST_PAGE), 0, "%s", pb_explain(client));
        cr_assert_eq(memcmp(get_region(late, 0).addr, zeros, TEST_PAGE), 0);
        cr_assert(content_is_right(late, images, TEST_PAGE, SIZE - TEST_PAGE));
        cr_assert_eq(pb_heal(client, 0, SIZE, NULL), 0, "%s", pb_explain(client));
        late = test_disconnect(late);
}

TEST(end, helper_is_gone_when_all_is_there) {
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;

        prepare(&nbd);
        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""), "--fill=off", "--seccomp=on");
        cr_assert_eq(count_children(broker.pid), 1);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, LAST));
        cr_assert(ensure_is_right(client, images, LAST, TEST_PAGE));
        cr_assert(EVENTUALLY(count_children(broker.pid) == 0));
        cr_assert(test_broker_will_log(&broker, "what read it has ended"));
        cr_assert(test_broker_will_log(&broker, "what reads pages has been taken down"));
        is_whole(&broker, client);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}

/* Its last page needs no server. There is nothing to be told, so nobody tries to reach one. */
TEST(end, helper_does_not_wait_for_a_server_that_has_gone) {
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;

        prepare(&nbd);
        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""), "--fill=off", "--read-around=4K");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, LAST));
        test_nbd_kill(&nbd);
        cr_assert_eq(pb_ensure(client, LAST, TEST_PAGE, PB_OVERWRITE), 0, "%s", pb_explain(client));
        cr_assert(EVENTUALLY(count_children(broker.pid) == 0));
        cr_assert(content_is_right(client, images, 0, LAST));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}

TEST(end, each_memory_has_its_own) {
        const struct pb_memory_region where[] = { { .gpa = DIMM_GPA, .size = SIZE } };
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;

        prepare(&nbd);
        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""),
                          test_nbd_memory("dimm0", &nbd, "#samples=1,plugged=off"), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(count_children(broker.pid), 2);
        cr_assert(ensure_is_right(client, images, 0, SIZE));
        cr_assert(test_broker_will_log(&broker, "memory ram0: nothing is left to be read"));
        cr_assert(EVENTUALLY(count_children(broker.pid) == 1));
        /* What is plugged in later still has its own. */
        cr_assert_eq(pb_add_memory(client, "dimm0", where, 1), 1, "%s", pb_explain(client));
        test_ensure_and_check(client, &image, DIMM_GPA, SIZE);
        cr_assert(test_broker_will_log(&broker, "memory dimm0: nothing is left to be read"));
        cr_assert(EVENTUALLY(count_children(broker.pid) == 0));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}

/* Neither a helper nor the server. */
TEST(end, next_broker_does_without) {
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;

        prepare(&nbd);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { test_nbd_memory("ram0", &nbd, ""),
                                                                           "--fill=on", NULL },
                                   });
        cr_assert(test_broker_will_log(&broker, "what read it has ended"));
        test_nbd_kill(&nbd);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert_eq(count_children(broker.served), 0);
        cr_assert(test_broker_will_log(&broker, "memory ram0 is complete: its source is not needed any more"));
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        is_whole(&broker, client);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}

/* One that is not complete needs it as before. */
TEST(end, next_broker_reads_what_is_absent) {
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;

        prepare(&nbd);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { test_nbd_memory("ram0", &nbd, ""),
                                                                           "--fill=off", NULL },
                                   });
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, LAST / 2));
        client = test_disconnect(client);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert_eq(count_children(broker.served), 1);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, SIZE));
        cr_assert(EVENTUALLY(count_children(broker.served) == 0));
        is_whole(&broker, client);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}
