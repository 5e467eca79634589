/* SPDX-License-Identifier: MIT */
/* How a broker comes to its sockets and its user, and how it says no. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/message.h"
#include "tests/integration/basic/support.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 21, .n_pages = 256, .data_ppm = 700000 });
}

/* A broker that gets `socket` by LISTEN_FDS and nothing else to listen on. */
struct passed {
        int socket;
        const char *memory;
};

static int exec_with_socket(void *arg) {
        const struct passed *passed = arg;
        char pid[16];
        int fd = fcntl(passed->socket, F_DUPFD, 10);

        CHILD_CHECK(fd >= 0 && dup2(fd, 3) == 3);
        (void) syscall(SYS_close_range, 4, ~0u, 0);
        (void) snprintf(pid, sizeof pid, "%d", (int) getpid());
        CHILD_CHECK(setenv("LISTEN_PID", pid, 1) == 0 && setenv("LISTEN_FDS", "1", 1) == 0);
        (void) unsetenv("NOTIFY_SOCKET");
        (void) execl(TEST_BUILD_ROOT "/broker/pagebrokerd", "pagebrokerd", passed->memory, "--fill=off", "--bus=none",
                     TEST_SANITIZED ? "--seccomp=off" : "--seccomp=on", (char *) NULL);
        return 127;
}

static void end_broker(pid_t pid) {
        cr_assert(kill(pid, SIGTERM) == 0);
        cr_assert_eq(test_child_wait(pid), 0);
}

TEST(start, listening_socket_may_be_passed) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct test_broker broker = {};
        _cleanup_close_ int fd = -1;
        pb_client *client;
        pid_t pid;

        make_image();
        (void) snprintf(broker.address, sizeof broker.address, "%s/passed-%d", getenv("TMPDIR") ?: "/tmp",
                        (int) getpid());
        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", broker.address);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof address) == 0 && listen(fd, 16) == 0);
        pid = test_child_start((uid_t) -1, exec_with_socket, &(struct passed) { fd, TEST_MEMORY("ram0", &image) });
        client = test_connect(&broker, PB_ROLE_DEVICE); /* waits in the backlog for a broker */
        cr_assert(ensure_is_right(client, images, 0, 256 * TEST_PAGE));
        client = test_disconnect(client);
        end_broker(pid);
        cr_assert(access(broker.address, F_OK) == 0, "it removed a socket that is not its own");
        (void) unlink(broker.address);
        test_image_unlink(&image);
}

/* A supervisor makes a pair, gives one end to the broker, the other to a client as fd:N. The client may well be the
 * first to run: its hello is there before the broker is. */
static void connected_pair(bool client_first) {
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE };
        struct test_broker broker = {};
        pb_client *client = NULL;
        int pair[2], r;
        pid_t pid;

        make_image();
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        (void) snprintf(broker.address, sizeof broker.address, "fd:%d", pair[1]);
        pid = test_child_start((uid_t) -1, exec_with_socket, &(struct passed) { pair[0], TEST_MEMORY("ram0", &image) });
        if (!client_first) /* it has taken the socket: it asks for credentials */
                cr_assert(EVENTUALLY(({
                        int on = 0;
                        socklen_t size = sizeof on;

                        (void) getsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, &size);
                        on;
                })));
        r = pb_connect(&client, broker.address, &options);
        cr_assert(r == 0, "pb_connect: %s", strerror(-r));
        cr_assert(ensure_is_right(client, images, 0, 256 * TEST_PAGE));
        client = pb_disconnect(client);
        (void) close(pair[0]);
        (void) close(pair[1]);
        end_broker(pid);
        test_image_unlink(&image);
}

TEST(start, connected_socket_may_be_passed) {
        connected_pair(false);
}

TEST(start, hello_may_be_there_before_the_broker) {
        connected_pair(true);
}

/* Sent before either end asked for credentials: nobody knows whose it is. The socket's own are those of who made the pair. */
TEST(start, hello_without_credentials_is_refused) {
        struct pb_message_hello hello = {
                .header = { .type = PB_MSG_HELLO, .size = sizeof hello, .serial = 1 },
                .version_min = PB_VERSION_MIN,
                .version_max = PB_VERSION_MAX,
                .role = PB_AS_DEVICE,
                .name = "nobody",
        };
        struct pb_message_result refused = { .error = 0 };
        int pair[2];
        pid_t pid;

        make_image();
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        cr_assert_eq(send(pair[1], &hello, sizeof hello, 0), (ssize_t) sizeof hello);
        pid = test_child_start((uid_t) -1, exec_with_socket, &(struct passed) { pair[0], TEST_MEMORY("ram0", &image) });
        cr_assert_eq(recv(pair[1], &refused, sizeof refused, 0), (ssize_t) sizeof refused);
        cr_assert_eq(refused.header.type, PB_MSG_REFUSED);
        cr_assert(strstr(refused.text, "without credentials"), "%s", refused.text);
        (void) close(pair[0]);
        (void) close(pair[1]);
        end_broker(pid);
        test_image_unlink(&image);
}

TEST(start, becomes_the_user_it_is_told) {
        struct test_broker broker;
        pb_client *client;
        struct stat st;
        char path[64];

        require_root();
        make_image();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--user=nobody");
        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) broker.pid);
        cr_assert(stat(path, &st) == 0);
        client = test_connect(&broker, PB_ROLE_VMM); /* root: whose broker it was */
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert(ensure_is_right(client, images, 0, 256 * TEST_PAGE));
        cr_assert_eq(test_process_kib(broker.pid, "Uid"), 65534);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* ---- refusals: each in words that name what is wrong ---- */

static const struct {
        const char *args[4];
        const char *words;
        int status;
} refusals[] = {
        { { "--memory=ram0,source=file:/does/not/exist" }, "/does/not/exist': No such file", 1 },
        { { "--memory=ram0,source=http://x,size=4K" }, "'http://x': unknown kind", 1 },
        { { "--memory=ram0,size=5000" }, "not a multiple of its page size 4096", 1 },
        { { "--memory=ram0,size=3M", "--huge=2M" }, "not a multiple of its page size 2097152", 1 },
        { { "--memory=ram0,size=128T" }, "or more than 70368744177664", 1 },
        { { "--memory=ram0,size=1M", "--region=0,size=1M,memory=ram1" }, "there is no --memory=ram1", 1 },
        { { "--memory=ram0,size=1M", "--region=0,size=2M,memory=ram0" }, "must lie inside memory ram0", 1 },
        { { "--memory=ram0,size=1M", "--region=0x123,size=4K,memory=ram0" }, "--region=0x123", 1 },
        { { "--memory=ram0,size=1M", "--region=0,size=512K,memory=ram0", "--region=256K,size=4K,memory=ram0" },
          "overlaps",
          1 },
        { { "--memory=ram0,size=1M", "--region=0xfffffffffffff000,size=8K,memory=ram0" }, "must lie inside", 1 },
        { { "--memory=ram0,size=1M", "--user=no-such-user" }, "no such user", 1 },
        /* numbers that setresuid() takes for "as it is" or for root */
        { { "--memory=ram0,size=1M", "--user=-1" }, "--user=-1: no such user", 1 },
        { { "--memory=ram0,size=1M", "--user=4294967295" }, "no such user", 1 },
        { { "--memory=ram0,size=1M", "--user=4294967296" }, "no such user", 1 },
        { { "--memory=ram0,size=1M", "--socket=/does/not/exist/socket" }, "--socket=/does/not/exist/socket", 1 },
        { { "--memory=ram0,size=1M", "--socket=/dev/null" }, "exists and is not a socket", 1 },
        { { "--memory=ram0,size=1M,backing=guest_memfd" }, "guest_memfd is refused", 2 },
        { { "--fill=off" }, "no memory", 2 },
        { { "--memory=ram0,size=1M", "--bogus" }, "bogus", 2 },
};

TEST(start, refuses_in_words) {
        char log[4096];

        for (unsigned i = 0; i < ELEMENTS(refusals); i++) {
                int status = test_broker_refuses(refusals[i].args, log, sizeof log);

                cr_assert_eq(status, refusals[i].status, "%s: status %d: %s", refusals[i].words, status, log);
                cr_assert(strstr(log, refusals[i].words), "'%s' is not in: %s", refusals[i].words, log);
        }
}

TEST(start, socket_of_a_living_broker_is_not_taken_and_a_dead_ones_is) {
        struct test_broker first, second;
        pb_client *client;
        char option[160], log[4096];

        TEST_BROKER_START(&first, "--memory=ram0,size=1M");
        (void) snprintf(option, sizeof option, "--socket=%s", first.address);
        cr_assert_eq(test_broker_refuses((const char *const[]) { "--memory=ram0,size=1M", option, NULL }, log,
                                         sizeof log),
                     1);
        cr_assert(strstr(log, "in use"), "%s", log);
        cr_assert(kill(first.pid, SIGKILL) == 0);
        cr_assert(EVENTUALLY(test_broker_is_dead(&first)));
        TEST_BROKER_START(&second, "--memory=ram0,size=1M", option);
        client = test_connect(&first, PB_ROLE_OBSERVER); /* its address, the second's listener */
        client = pb_disconnect(client);
        test_broker_stop(&second);
        test_broker_kill(&first);
}

/* While a thread still counts the data of a large image. */
TEST(start, stops_as_asked_at_any_time) {
        struct test_broker broker;

        test_image_make(&image,
                        &(struct test_image_spec) { .seed = 22, .n_pages = 40000, .data_ppm = 500000, .run_pages = 1 });
        for (unsigned i = 0; i < 5; i++) {
                TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image));
                test_broker_stop(&broker);
        }
        test_image_unlink(&image);
}
