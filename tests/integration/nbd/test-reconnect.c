/* SPDX-License-Identifier: MIT */
/* A server that goes away and comes back, with the filter on and privileges gone: no fault is lost. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 1024u

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct scene {
        struct test_nbd nbd;
        struct test_broker broker;
        pb_client *client;
};

static void scene_start(struct scene *s, const char *more) {
        require_program("nbdkit");
        test_image_make(&image, &(struct test_image_spec) { .seed = 95, .n_pages = N_PAGES });
        test_nbd_prepare(&s->nbd);
        TEST_NBDKIT(&s->nbd, "file", image.path);
        TEST_BROKER_START(&s->broker, test_nbd_memory("ram0", &s->nbd, ""), "--fill=off", "--seccomp=on", more);
        s->client = test_connect(&s->broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(s->client, images, 0, 64 * TEST_PAGE));
}

static void scene_stop(struct scene *s) {
        s->client = test_disconnect(s->client);
        test_broker_stop(&s->broker);
        test_nbd_stop(&s->nbd);
        test_image_unlink(&image);
}

static void lose_no_fault(const char *more) {
        struct scene s;
        struct ensure_call call;

        scene_start(&s, more);
        for (uint64_t page = 64; page < N_PAGES; page += 320) {
                test_nbd_kill(&s.nbd);
                ensure_start(&call, s.client, page * TEST_PAGE, 320 * TEST_PAGE, PB_READ);
                cr_assert(EVENTUALLY(get_stats(s.client).pages_in_flight > 0));
                TEST_NBDKIT(&s.nbd, "file", image.path);
                cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        }
        cr_assert(content_is_right(s.client, images, 0, N_PAGES * TEST_PAGE));
        scene_stop(&s);
}

TEST(reconnect, fault_while_the_server_is_away_is_answered) {
        lose_no_fault("-q");
}

TEST(reconnect, fault_is_answered_after_the_broker_became_another_user) {
        require_other_uid();
        lose_no_fault("--user=65534");
}

TEST(reconnect, another_export_is_an_error_until_the_right_one_is_back) {
        struct test_image other;
        struct scene s;

        scene_start(&s, "-q");
        test_image_make(&other, &(struct test_image_spec) { .seed = 96, .n_pages = N_PAGES });
        test_nbd_kill(&s.nbd);
        TEST_NBDKIT(&s.nbd, "file", other.path);
        cr_assert_eq(pb_ensure(s.client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(s.client), "has changed since"), "%s", pb_explain(s.client));
        cr_assert(test_broker_will_log(&s.broker, "the export is not the one that was opened"));
        test_nbd_kill(&s.nbd);
        TEST_NBDKIT(&s.nbd, "file", image.path);
        cr_assert(EVENTUALLY(pb_ensure(s.client, 200 * TEST_PAGE, 1, PB_READ) == 0));
        /* What was poisoned meanwhile is healed by the return. */
        cr_assert(EVENTUALLY(pb_ensure(s.client, 100 * TEST_PAGE, 1, PB_READ) == 0));
        cr_assert(content_is_right(s.client, images, 100 * TEST_PAGE, TEST_PAGE));
        test_image_unlink(&other);
        scene_stop(&s);
}

TEST(reconnect, export_of_another_size_is_an_error) {
        struct test_image other;
        struct scene s;

        scene_start(&s, "-q");
        test_image_make(&other, &(struct test_image_spec) { .seed = 95, .n_pages = 2 * N_PAGES });
        test_nbd_kill(&s.nbd);
        TEST_NBDKIT(&s.nbd, "file", other.path);
        cr_assert_eq(pb_ensure(s.client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
        test_image_unlink(&other);
        scene_stop(&s);
}

/* Its connections stay open; it just does nothing. (nbdkit 1.32 dies by an assertion of its own when so many connections go at
 * once.) */
TEST(reconnect, server_that_is_stopped_for_a_while_loses_no_fault) {
        struct ensure_call call;
        struct scene s;

        require_program("qemu-nbd");
        test_image_make(&image, &(struct test_image_spec) { .seed = 97, .n_pages = N_PAGES });
        test_nbd_prepare(&s.nbd);
        TEST_QEMU_NBD(&s.nbd, "--read-only", "-f", "raw", "-e", "8", image.path);
        TEST_BROKER_START(&s.broker, test_nbd_memory("ram0", &s.nbd, ""), "--fill=off", "--source-timeout=0.2", "--source-retries=100");
        s.client = test_connect(&s.broker, PB_ROLE_VMM);
        cr_assert(kill(s.nbd.pid, SIGSTOP) == 0);
        ensure_start(&call, s.client, 100 * TEST_PAGE, 320 * TEST_PAGE, PB_READ);
        cr_assert(test_broker_will_log(&s.broker, "does not answer"));
        cr_assert(kill(s.nbd.pid, SIGCONT) == 0);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(s.client, images, 100 * TEST_PAGE, 320 * TEST_PAGE));
        scene_stop(&s);
}

static pid_t child_of(pid_t pid) {
        char path[64];
        int child = 0;

        (void) snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int) pid, (int) pid);
        _cleanup_fclose_ FILE *f = fopen(path, "re");

        return f && fscanf(f, "%d", &child) == 1 ? child : 0;
}

/* The worker's successor takes over what it was asked for. */
TEST(reconnect, reads_survive_the_death_of_the_worker) {
        struct ensure_call call;
        struct scene s;
        pid_t worker;

        scene_start(&s, "-q");
        test_nbd_kill(&s.nbd);
        ensure_start(&call, s.client, 100 * TEST_PAGE, 320 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(s.client).pages_in_flight > 0));
        worker = child_of(child_of(s.broker.pid));
        cr_assert(worker > 0 && kill(worker, SIGKILL) == 0);
        TEST_NBDKIT(&s.nbd, "file", image.path);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(test_broker_will_log(&s.broker, "another one takes over"));
        cr_assert(ensure_is_right(s.client, images, 0, N_PAGES * TEST_PAGE));
        scene_stop(&s);
}

/* Nobody is left to answer: an error with the reason, not silence. */
TEST(reconnect, death_of_the_whole_helper_is_an_error) {
        pid_t supervisor, worker;
        struct scene s;

        scene_start(&s, "--source-retries=1");
        supervisor = child_of(s.broker.pid);
        worker = child_of(supervisor);
        cr_assert(supervisor > 0 && worker > 0);
        cr_assert(kill(supervisor, SIGKILL) == 0 && kill(worker, SIGKILL) == 0);
        cr_assert_eq(pb_ensure(s.client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(s.client), "the process that reads the source has ended"), "%s", pb_explain(s.client));
        scene_stop(&s);
}
