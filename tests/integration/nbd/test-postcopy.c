/* SPDX-License-Identifier: MIT */
/* Post-copy between two brokers: the source's memory is exported by nbdkit with our plugin, and released as it arrives. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 2048u
static const char plugin[] = TEST_BUILD_ROOT "/client/nbdkit/nbdkit-pagebroker-plugin.so";
#define NEVER_FETCHED 1500u /* a page that is absent at the source when it stops */

static struct test_image image;

/* What the guest wrote before it was stopped, over the snapshot that it had been restored from: every tenth page. */
static bool is_written(uint64_t page) {
        return page % 10 == 3;
}

struct scene {
        struct test_nbd nbd;
        struct test_broker source, target;
        pb_client *at_source, *at_target;
        char socket[160], state[200], commit[200];
};

static void expected(uint64_t page, char *ret) {
        if (is_written(page))
                memset(ret, (int) ('A' + page % 26), TEST_PAGE);
        else
                test_image_fill(&image, page, ret);
}

static void check(pb_client *client, uint64_t first, uint64_t n) {
        const char *memory = get_region(client, 0).addr;
        char page[TEST_PAGE];

        for (uint64_t i = first; i < first + n; i++) {
                expected(i, page);
                cr_assert(memcmp(memory + i * TEST_PAGE, page, TEST_PAGE) == 0, "page %u", (unsigned) i);
        }
}

/* One request of a connection after the other: nbdkit (1.32) can end by an assertion of its own, raw_send_socket(), if a connection
 * breaks while several of its threads answer on it. */
static void run_exporter(struct scene *s, bool release) {
        if (release)
                TEST_NBDKIT(&s->nbd, "--threads=1", plugin, s->socket, s->state, s->commit);
        else
                TEST_NBDKIT(&s->nbd, "--threads=1", plugin, s->socket);
}

/* The source has run for a while, lazily: some of it is still absent. It stops, and is exported. */
static void start_source_as(struct scene *s, bool release, bool supervised) {
        require_program("nbdkit");
        if (access(plugin, F_OK) < 0)
                cr_skip_test("the plugin is not built: nbdkit-plugin-dev");
        test_image_make(&image, &(struct test_image_spec) { .seed = 401, .n_pages = N_PAGES, .data_ppm = 600000 });
        test_broker_start(&s->source, &(struct test_broker_options) {
                                              .supervised = supervised,
                                              .args = (const char *const[]) { TEST_MEMORY("ram0", &image), "--fill=off", NULL },
                                      });
        s->at_source = test_connect(&s->source, PB_ROLE_VMM);
        for (uint64_t page = 0; page < N_PAGES; page++)
                if (is_written(page)) {
                        test_ensure(s->at_source, page * TEST_PAGE, TEST_PAGE, PB_WRITE);
                        memset((char *) get_region(s->at_source, 0).addr + page * TEST_PAGE, (int) ('A' + page % 26), TEST_PAGE);
                }
        test_ensure(s->at_source, 0, 300 * TEST_PAGE, PB_READ);
        cr_assert(!pb_is_present(s->at_source, NEVER_FETCHED * TEST_PAGE, TEST_PAGE));
        test_nbd_prepare(&s->nbd);
        (void) snprintf(s->socket, sizeof s->socket, "socket=%s", s->source.address);
        (void) snprintf(s->state, sizeof s->state, "state=%s", test_nbd_path(&s->nbd, "state"));
        (void) snprintf(s->commit, sizeof s->commit, "commit=%s", test_nbd_path(&s->nbd, "commit"));
        run_exporter(s, release);
}

static void start_source(struct scene *s, bool release) {
        start_source_as(s, release, false);
}

static void commit(struct scene *s) {
        cr_assert(close(open(s->commit + strlen("commit="), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
}

static void start_target_as(struct scene *s, const char *fill, const char *retries, bool supervised) {
        /* Pages come when they are asked for, and not with their neighbours. */
        const char *const args[] = { test_nbd_memory("ram0", &s->nbd, "#samples=0&release=1"), fill, "--source-timeout=2", retries,
                                     "--read-around=4K", NULL };

        test_broker_start(&s->target, &(struct test_broker_options) { .supervised = supervised, .args = args });
        s->at_target = test_connect(&s->target, PB_ROLE_VMM);
}

static void start_target_with(struct scene *s, const char *fill, const char *retries) {
        start_target_as(s, fill, retries, false);
}

static void start_target(struct scene *s, const char *fill) {
        start_target_with(s, fill, "--source-retries=2");
}

static void stop_target(struct scene *s) {
        s->at_target = test_disconnect(s->at_target);
        test_broker_stop(&s->target);
}

static void stop_source(struct scene *s) {
        test_nbd_stop(&s->nbd);
        s->at_source = test_disconnect(s->at_source);
        test_broker_stop(&s->source);
        test_image_unlink(&image);
}

static uint64_t blocks_at_source(struct scene *s) {
        struct stat st;

        cr_assert(fstat(get_region(s->at_source, 0).fd, &st) == 0);
        return (uint64_t) st.st_blocks;
}

TEST(postcopy, target_sees_what_the_guest_wrote_and_what_the_source_never_had) {
        struct scene s;

        start_source(&s, false);
        start_target(&s, "--fill=off");
        /* Absent at the source: fetched there, not sent as zeros. */
        test_ensure(s.at_target, NEVER_FETCHED * TEST_PAGE, TEST_PAGE, PB_READ);
        check(s.at_target, NEVER_FETCHED, 1);
        test_ensure(s.at_target, 0, N_PAGES * TEST_PAGE, PB_READ);
        check(s.at_target, 0, N_PAGES);
        stop_target(&s);
        stop_source(&s);
}

/* The source is filled: what it knows to be zeros is not read at the target. */
TEST(postcopy, zeros_of_the_source_cost_no_read) {
        struct scene s;

        start_source(&s, false);
        test_ensure(s.at_source, 0, N_PAGES * TEST_PAGE, PB_READ);
        start_target(&s, "--fill=off");
        cr_assert(EVENTUALLY(get_stats(s.at_target).pages_data > 0));
        cr_assert(get_stats(s.at_target).pages_data < N_PAGES);
        test_ensure(s.at_target, 0, N_PAGES * TEST_PAGE, PB_READ);
        check(s.at_target, 0, N_PAGES);
        stop_target(&s);
        stop_source(&s);
}

TEST(postcopy, nothing_is_released_before_the_commit) {
        struct scene s;

        start_source(&s, true);
        start_target(&s, "--fill=on");
        cr_assert(EVENTUALLY(get_stats(s.at_target).complete));
        check(s.at_target, 0, N_PAGES);
        stop_target(&s); /* the target fails before it runs */
        test_ensure(s.at_source, 0, N_PAGES * TEST_PAGE, PB_READ);
        check(s.at_source, 0, N_PAGES); /* the source goes on */
        start_target(&s, "--fill=on"); /* or another target is tried */
        cr_assert(EVENTUALLY(get_stats(s.at_target).complete));
        check(s.at_target, 0, N_PAGES);
        stop_target(&s);
        stop_source(&s);
}

TEST(postcopy, confirmed_pages_are_released_after_the_commit) {
        struct scene s;

        start_source(&s, true);
        test_ensure(s.at_source, 0, N_PAGES * TEST_PAGE, PB_READ);
        start_target(&s, "--fill=off");
        test_ensure(s.at_target, 0, N_PAGES / 2 * TEST_PAGE, PB_READ);
        commit(&s);
        test_ensure(s.at_target, 0, N_PAGES * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(blocks_at_source(&s) == 0), "%u blocks of 512 bytes are left", (unsigned) blocks_at_source(&s));
        check(s.at_target, 0, N_PAGES);
        stop_target(&s);
        stop_source(&s);
}

/* The exporter is away when the last page comes, which is one that it does not have to send. Its memory is given back when it is
 * here again, also behind the page that was never read; before, what reads does not end. */
TEST(postcopy, everything_is_released_before_the_helper_ends) {
        struct scene s;

        start_source(&s, true);
        test_ensure(s.at_source, 0, N_PAGES * TEST_PAGE, PB_READ);
        commit(&s);
        start_target(&s, "--fill=off");
        test_ensure(s.at_target, 0, (N_PAGES - 1) * TEST_PAGE, PB_READ);
        test_nbd_kill(&s.nbd);
        test_ensure(s.at_target, (N_PAGES - 1) * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        cr_assert(test_broker_will_log(&s.target, "all pages are present"));
        cr_assert_neq(blocks_at_source(&s), 0); /* the page that was overwritten, at least */
        run_exporter(&s, true);
        cr_assert(test_broker_will_log(&s.target, "what read it has ended"));
        cr_assert_eq(blocks_at_source(&s), 0);
        check(s.at_target, 0, N_PAGES - 1);
        stop_target(&s);
        stop_source(&s);
}

/* A second target, which has not got what the first had: an error, never zeros. Nor after the exporter was started again. */
TEST(postcopy, released_pages_are_an_error_for_whoever_comes_later) {
        struct scene s;

        start_source(&s, true);
        commit(&s);
        start_target(&s, "--fill=off");
        test_ensure(s.at_target, 3 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(is_zero((char *) get_region(s.at_source, 0).addr + 3 * TEST_PAGE, TEST_PAGE)));
        stop_target(&s);
        start_target(&s, "--fill=off");
        cr_assert_eq(pb_ensure(s.at_target, 3 * TEST_PAGE, TEST_PAGE, PB_READ), -EIO);
        test_ensure(s.at_target, 13 * TEST_PAGE, TEST_PAGE, PB_READ);
        check(s.at_target, 13, 1);
        stop_target(&s);
        test_nbd_kill(&s.nbd);
        run_exporter(&s, true);
        start_target(&s, "--fill=off");
        cr_assert_eq(pb_ensure(s.at_target, 3 * TEST_PAGE, TEST_PAGE, PB_READ), -EIO);
        stop_target(&s);
        stop_source(&s);
}

/* The link, or the exporter, dies with faults on their way. */
TEST(postcopy, death_of_the_link_loses_no_page) {
        struct ensure_call call;
        struct scene s;

        start_source(&s, true);
        commit(&s);
        start_target_with(&s, "--fill=off", "--source-retries=100"); /* however long the next exporter takes */
        test_ensure(s.at_target, 0, 500 * TEST_PAGE, PB_READ);
        test_nbd_kill(&s.nbd);
        ensure_start(&call, s.at_target, 500 * TEST_PAGE, 700 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(s.at_target).pages_in_flight > 0));
        run_exporter(&s, true);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        test_ensure(s.at_target, 0, N_PAGES * TEST_PAGE, PB_READ);
        check(s.at_target, 0, N_PAGES);
        stop_target(&s);
        stop_source(&s);
}

/* With the source's memory gone, what has not arrived cannot be had: an error, and what has arrived stays. */
TEST(postcopy, death_of_the_source_is_an_error_for_what_has_not_arrived) {
        struct test_broker other;
        struct scene s;

        start_source(&s, false);
        start_target(&s, "--fill=off");
        test_ensure(s.at_target, 0, 500 * TEST_PAGE, PB_READ);
        test_nbd_kill(&s.nbd);
        /* Another memory behind the same socket: a broker that was started anew. */
        TEST_BROKER_START(&other, TEST_MEMORY("ram0", &image), "--fill=off");
        (void) snprintf(s.socket, sizeof s.socket, "socket=%s", other.address);
        run_exporter(&s, false);
        cr_assert_eq(pb_ensure(s.at_target, 600 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(s.at_target), "has changed since"), "%s", pb_explain(s.at_target));
        check(s.at_target, 0, 500);
        stop_target(&s);
        test_nbd_kill(&s.nbd);
        test_broker_stop(&other);
        stop_source(&s);
}

TEST(postcopy, state_of_another_memory_is_refused) {
        struct test_broker other;
        char socket[160];
        struct scene s;
        struct stat st;
        int status;

        start_source(&s, true);
        cr_assert(EVENTUALLY(stat(s.state + strlen("state="), &st) == 0 && st.st_size > 0)); /* nbdkit says early that it runs */
        test_nbd_kill(&s.nbd);
        TEST_BROKER_START(&other, TEST_MEMORY("ram0", &image), "--fill=off");
        (void) snprintf(socket, sizeof socket, "socket=%s", other.address);
        status = test_child_wait(test_start_program((const char *const[]) { "nbdkit", "-f", "-U", s.nbd.socket, plugin, socket, s.state,
                                                                            s.commit, NULL }));
        cr_assert_eq(status, 1);
        test_broker_stop(&other);
        stop_source(&s);
}

static void kill_and_wait(struct test_broker *broker) {
        test_broker_kill_served(broker);
        test_broker_wait_next(broker);
}

/* What a killed target had not said any more of what it has is given back too, in the end; and then nobody is asked again. */
TEST(postcopy, target_that_is_killed_goes_on_and_everything_is_released) {
        struct scene s;

        start_source(&s, true);
        test_ensure(s.at_source, 0, N_PAGES * TEST_PAGE, PB_READ);
        commit(&s);
        start_target_as(&s, "--fill=off", "--source-retries=2", true);
        for (uint64_t part = 0; part < 4; part++) {
                test_ensure(s.at_target, part * N_PAGES / 4 * TEST_PAGE, N_PAGES / 4 * TEST_PAGE, PB_READ);
                if (part < 3)
                        kill_and_wait(&s.target);
        }
        check(s.at_target, 0, N_PAGES);
        cr_assert(test_broker_will_log(&s.target, "what read it has ended"));
        cr_assert_eq(blocks_at_source(&s), 0);
        kill_and_wait(&s.target);
        test_ensure(s.at_target, 0, N_PAGES * TEST_PAGE, PB_READ);
        check(s.at_target, 0, N_PAGES);
        cr_assert(get_stats(s.at_target).complete);
        stop_target(&s);
        stop_source(&s);
}

/* The exporter is a client as any other. What the guest wrote is in the memory that the next broker adopts. */
TEST(postcopy, source_that_is_killed_goes_on) {
        struct scene s;

        start_source_as(&s, true, true);
        commit(&s);
        start_target(&s, "--fill=off");
        for (uint64_t part = 0; part < 4; part++) {
                kill_and_wait(&s.source);
                test_ensure(s.at_target, part * N_PAGES / 4 * TEST_PAGE, N_PAGES / 4 * TEST_PAGE, PB_READ);
        }
        check(s.at_target, 0, N_PAGES);
        cr_assert(test_broker_will_log(&s.target, "what read it has ended"));
        cr_assert_eq(blocks_at_source(&s), 0);
        stop_target(&s);
        stop_source(&s);
}
