/* SPDX-License-Identifier: MIT */
/* pagebrokerctl --socket against a real broker that is on no bus. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "tests/integration/ctl/support.h"
#include "tests/lib/connect.h"
#include "tests/lib/gate.h"

/* Words separated by blanks. */
static int run(const struct test_broker *broker, const char *text) {
        const char *words[8];
        char socket[128], copy[256], *rest = copy;
        unsigned n = 0;

        (void) snprintf(socket, sizeof socket, "--socket=%s", broker->address);
        (void) snprintf(copy, sizeof copy, "%s", text);
        words[n++] = socket;
        for (char *word; (word = strsep(&rest, " "));)
                words[n++] = word;
        words[n] = NULL;
        return ctl_run(0, words);
}

static void start(struct test_broker *broker, struct test_image *image) {
        test_image_make(image, &(struct test_image_spec) { .n_pages = 256, .seed = 3, .data_ppm = 500000 });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", image), "--fill=off");
}

static void stop(struct test_broker *broker, struct test_image *image) {
        test_broker_stop(broker);
        test_image_unlink(image);
}

/* A thread counts it, from the start on. */
static bool has_counted_data(const struct test_broker *broker, uint64_t n) {
        json_object *status;
        bool has;

        cr_assert_eq(run(broker, "status --json"), 0, "%s", ctl_err);
        status = ctl_json();
        has = ctl_number(status, "pages_data") == n;
        (void) json_object_put(status);
        return has;
}

TEST(socket, status_counts_pages_and_data) {
        struct test_image image;
        struct test_broker broker;
        json_object *status;

        start(&broker, &image);
        cr_assert(EVENTUALLY(has_counted_data(&broker, test_image_count_data(&image))), "%s", ctl_out);
        status = ctl_json();
        cr_assert_eq(ctl_number(status, "pages_total"), 256);
        cr_assert_not(ctl_is(status, "complete"));
        cr_assert_not(ctl_is(status, "fill"));
        (void) json_object_put(status);
        cr_assert_eq(run(&broker, "status"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "of 256 pages"), "%s", ctl_out);
        stop(&broker, &image);
}

TEST(socket, watch_ends_when_the_fill_has_brought_everything) {
        struct test_image image;
        struct test_broker broker;

        start(&broker, &image);
        cr_assert_eq(run(&broker, "fill on --json"), 0, "%s", ctl_err);
        cr_assert_str_eq(ctl_out, "{ \"fill\": true }\n");
        cr_assert_eq(run(&broker, "watch --interval=0.01"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "100.0 % of the memory"), "%s", ctl_out);
        cr_assert_eq(run(&broker, "status --json"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "\"complete\": true"), "%s", ctl_out);
        stop(&broker, &image);
}

TEST(socket, a_wrong_command_line_is_refused) {
        struct test_broker nobody = { .address = "/nonexistent/socket" };

        cr_assert_eq(run(&nobody, "fill perhaps"), 2, "%s", ctl_err);
        cr_assert_eq(run(&nobody, "stop"), 2, "%s", ctl_err);
        cr_assert_eq(run(&nobody, "--interval=0 watch"), 2, "%s", ctl_err);
        cr_assert_eq(run(&nobody, "status"), 3, "%s", ctl_err);
        cr_assert(strstr(ctl_err, "no broker listens at /nonexistent/socket"), "%s", ctl_err);
}

TEST(socket, a_user_without_the_role_is_told_which_option_grants_it) {
        struct test_image image;
        struct test_broker broker;
        char socket[128];
        int status;

        require_other_uid();
        start(&broker, &image);
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker.address);
        status = ctl_run(TEST_OTHER_UID, (const char *const[]) { socket, "fill", "on", NULL });
        cr_assert_eq(status, 4, "ended with %d: %s", status, ctl_err);
        cr_assert(strstr(ctl_err, "--allow=vmm:UID"), "%s", ctl_err);
        stop(&broker, &image);
}

static int exec_argv(void *arg) {
        char *const *argv = arg;

        (void) execv(argv[0], argv);
        return 121;
}

static bool is_between_two_attempts(pid_t pid) {
        return test_thread_syscall(pid, pid) == SYS_clock_nanosleep;
}

/* What a broker that was killed leaves behind. */
static void leave_stale_socket(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        cr_assert(fd >= 0 && bind(fd, (const struct sockaddr *) &address, sizeof address) == 0);
        cr_assert_eq(close(fd), 0);
}

static void expect_wait_for_broker(bool is_stale_before) {
        char dir[] = "/tmp/ctl-XXXXXX", path[64], next[64], option[96];
        const char *argv[] = { ctl_program, option, "--timeout=30", "wait", NULL };
        struct test_image image;
        struct test_broker broker;
        pid_t waiter;

        cr_assert(mkdtemp(dir) != NULL);
        (void) snprintf(path, sizeof path, "%s/socket", dir);
        (void) snprintf(next, sizeof next, "%s/next", dir);
        (void) snprintf(option, sizeof option, "--socket=%s", path);
        if (is_stale_before)
                leave_stale_socket(path);
        waiter = test_child_start((uid_t) -1, exec_argv, argv);
        cr_assert(EVENTUALLY(is_between_two_attempts(waiter)), "it does not wait");
        start(&broker, &image);
        cr_assert(symlink(broker.address, next) == 0 && rename(next, path) == 0);
        cr_assert_eq(test_child_wait(waiter), 0);
        stop(&broker, &image);
        cr_assert(unlink(path) == 0 && rmdir(dir) == 0);
}

TEST(socket, wait_returns_when_a_broker_comes) {
        expect_wait_for_broker(false);
}

TEST(socket, wait_returns_when_a_broker_replaces_a_stale_socket) {
        expect_wait_for_broker(true);
}

TEST(socket, wait_gives_up_where_no_broker_comes) {
        struct test_broker nobody = { .address = "/nonexistent/socket" };

        cr_assert_eq(run(&nobody, "wait --timeout=0.05"), 3, "%s", ctl_err);
        cr_assert(strstr(ctl_err, "no broker listens at /nonexistent/socket"), "%s", ctl_err);
        cr_assert_eq(run(&nobody, "wait --timeout=soon"), 2, "%s", ctl_err);
}

TEST(socket, wait_needs_no_role) {
        struct test_image image;
        struct test_broker broker;
        char socket[128];
        int status;

        require_other_uid();
        start(&broker, &image);
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker.address);
        status = ctl_run(TEST_OTHER_UID, (const char *const[]) { socket, "wait", NULL });
        cr_assert_eq(status, 0, "ended with %d: %s", status, ctl_err);
        stop(&broker, &image);
}

TEST(socket, watch_ends_when_the_source_has_changed) {
        const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };
        struct test_image image;
        struct test_broker broker;

        start(&broker, &image);
        cr_assert(utimensat(AT_FDCWD, image.path, times, 0) == 0);
        cr_assert_eq(run(&broker, "fill on"), 0, "%s", ctl_err);
        cr_assert_eq(run(&broker, "watch --interval=0.01"), 1, "%s", ctl_err);
        cr_assert(strstr(ctl_err, "the source of 1 memory has changed"), "%s", ctl_err);
        cr_assert_eq(run(&broker, "status"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "changed since the start; absent pages cannot be had"), "%s", ctl_out);
        cr_assert_eq(run(&broker, "status --json"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "\"sources_lost\": 1,"), "%s", ctl_out);
        stop(&broker, &image);
}

TEST(socket, watch_ends_when_the_fill_has_left_out_all_that_is_absent) {
        struct test_image image;
        struct test_broker broker;
        struct test_gate gate;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .n_pages = 64, .seed = 4 });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 5 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--source-retries=1", "--heal-interval=0");
        cr_assert_eq(run(&broker, "watch --interval=0.1"), 1, "%s", ctl_err);
        cr_assert(strstr(ctl_err, "1 page could not be read from the source; all else is here"), "%s", ctl_err);
        cr_assert_eq(run(&broker, "status"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "left out     1 page: the fill could not read"), "%s", ctl_out);
        cr_assert_eq(run(&broker, "status --json"), 0, "%s", ctl_err);
        cr_assert(strstr(ctl_out, "\"pages_left_out\": 1,"), "%s", ctl_out);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(socket, watch_ends_when_all_that_is_absent_is_poisoned) {
        struct test_image image;
        struct test_broker broker;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .n_pages = 64, .seed = 4 });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 5 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off", "--fault-around=4K",
                          "--source-retries=0");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(pb_ensure(client, 5 * TEST_PAGE, TEST_PAGE, PB_READ), -EIO);
        cr_assert_eq(pb_ensure(client, 0, 5 * TEST_PAGE, PB_READ), 0);
        cr_assert_eq(pb_ensure(client, 6 * TEST_PAGE, 58 * TEST_PAGE, PB_READ), 0);
        cr_assert_eq(run(&broker, "watch --interval=0.01"), 1, "%s", ctl_err);
        cr_assert(strstr(ctl_out, ", 1 page poisoned, fill off\n"), "%s", ctl_out);
        cr_assert(strstr(ctl_err, "1 page could not be read"), "%s", ctl_err);
        client = pb_disconnect(client);
        stop(&broker, &image);
        test_gate_stop(&gate);
}

TEST(socket, heal_has_the_source_asked_again) {
        struct test_image image;
        struct test_broker broker;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .n_pages = 64, .seed = 4 });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 5 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off", "--fault-around=4K",
                          "--source-retries=0");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(pb_ensure(client, 5 * TEST_PAGE, TEST_PAGE, PB_READ), -EIO);
        test_gate_open(&gate);
        cr_assert_eq(run(&broker, "heal 0x6000 4096"), 0, "%s", ctl_err);
        cr_assert_str_eq(ctl_out, "0 pages no longer poisoned: they will be asked for again\n");
        cr_assert_eq(run(&broker, "heal 0x5000 1 --json"), 0, "%s", ctl_err);
        cr_assert_str_eq(ctl_out, "{ \"pages_healed\": 1 }\n");
        test_ensure_and_check(client, &image, 5 * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(run(&broker, "heal"), 0, "%s", ctl_err);
        cr_assert_str_eq(ctl_out, "0 pages no longer poisoned: they will be asked for again\n");
        client = test_disconnect(client);
        stop(&broker, &image);
        test_gate_stop(&gate);
}
