/* SPDX-License-Identifier: MIT */
/* The command line: what is wrong is named, with its option. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

struct run {
        const char *args[8];
        const char *out; /* where both outputs go */
};

static int run_child(void *arg) {
        struct run *run = arg;
        const char *argv[ELEMENTS(run->args) + 2] = { MACHINE_STAND_IN_PROGRAM };
        int fd = open(run->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        memcpy(&argv[1], run->args, sizeof run->args);
        CHILD_CHECK(fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0);
        (void) execv(argv[0], (char *const *) (uintptr_t) argv);
        CHILD_CHECK(false);
}

static void read_text(const char *path, char *ret, size_t size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, ret, size - 1) : -1;

        cr_assert(n >= 0, "%s", path);
        ret[n] = 0;
}

/* Runs it in the machine's folder. Returns the exit status; the output goes to `text`. */
static int run(struct machine *m, const struct run *options, char *text, size_t size) {
        struct run r = *options;
        char path[128];
        int status;

        (void) snprintf(path, sizeof path, "%s/out", m->dir);
        r.out = path;
        status = test_run_as((uid_t) -1, run_child, &r);
        read_text(path, text, size);
        (void) unlink(path);
        return status;
}

#define RUN(m, text, ...) run((m), &(struct run) { .args = { __VA_ARGS__ } }, (text), sizeof(text))

TEST(start, help_and_version) {
        char text[4096];
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(RUN(&m, text, "--help"), 0);
        cr_assert(strstr(text, "--pagebroker=ADDRESS") && strstr(text, "SIGUSR1"));
        cr_assert_eq(RUN(&m, text, "--version"), 0);
        cr_assert_str_eq(text, "vhost-user-blk " PAGEBROKER_VERSION "\n");
        machine_stop(&m);
}

TEST(start, wrong_options_are_named) {
        char text[4096], file[128], socket[128];
        struct machine m;

        MACHINE_START(&m);
        (void) snprintf(file, sizeof file, "--file=%s", m.disk_path);
        (void) snprintf(socket, sizeof socket, "--socket=%s/other", m.dir);
        cr_assert_eq(RUN(&m, text, NULL), 2);
        cr_assert(strstr(text, "--socket=PATH"));
        cr_assert_eq(RUN(&m, text, socket), 2);
        cr_assert(strstr(text, "--pagebroker=ADDRESS"));
        cr_assert_eq(RUN(&m, text, socket, "--pagebroker=/nowhere", file, "--serial=longer-than-twenty-bytes"), 2);
        cr_assert(strstr(text, "--serial="));
        cr_assert_eq(RUN(&m, text, socket, "--pagebroker=/nowhere", file, "junk"), 2);
        cr_assert(strstr(text, "junk"));
        cr_assert_eq(RUN(&m, text, socket, "--pagebroker=/nowhere", "--file=/nowhere/disk"), 1);
        cr_assert(strstr(text, "--file=/nowhere/disk: No such file"));
        cr_assert_eq(RUN(&m, text, socket, "--pagebroker=/nowhere", "--file=/dev/null"), 1);
        cr_assert(strstr(text, "--file=/dev/null: "));
        cr_assert_eq(RUN(&m, text, socket, "--pagebroker=/nowhere", file), 1);
        cr_assert(strstr(text, "--pagebroker=/nowhere: No such file"));
        cr_assert(strstr(text, "is pagebrokerd running"));
        machine_stop(&m);
}

static int bind_and_close(const char *path) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
        return bind(fd, (struct sockaddr *) &addr, sizeof addr);
}

TEST(start, socket_left_by_a_predecessor_is_replaced) {
        struct machine m;

        machine_prepare(&m);
        cr_assert_eq(bind_and_close(m.socket_path), 0);
        cr_assert_eq(access(m.socket_path, F_OK), 0);
        machine_start_prepared(&m, &(struct machine_options) { .absent = false });
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
        cr_assert_neq(access(m.socket_path, F_OK), 0);
}

/* Starts a second device at the machine's socket path, with a broker of its own. Returns its exit status. */
static int start_second(struct machine *m, char *text, size_t size) {
        char out[128], path[128], file[128], socket[128], pagebroker[160];
        struct run r = { .args = { file, socket, pagebroker }, .out = out };
        struct pages pages;
        pid_t pid;
        int status;

        (void) snprintf(out, sizeof out, "%s/out", m->dir);
        (void) snprintf(path, sizeof path, "%s/pages2", m->dir);
        (void) snprintf(file, sizeof file, "--file=%s", m->disk_path);
        (void) snprintf(socket, sizeof socket, "--socket=%s", m->socket_path);
        (void) snprintf(pagebroker, sizeof pagebroker, "--pagebroker=%s", path);
        pages_open(&pages, path, &(struct pages_options) { .size = MEMORY_SIZE, .present = true });
        pid = test_child_start((uid_t) -1, run_child, &r);
        pages_accept(&pages);
        status = test_child_wait(pid);
        pages_close(&pages);
        read_text(out, text, size);
        (void) unlink(out);
        return status;
}

TEST(start, socket_of_a_living_device_is_left_alone) {
        char text[4096];
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(start_second(&m, text, sizeof text), 1);
        cr_assert(strstr(text, "Address already in use"), "%s", text);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_disconnect(&m);
        machine_connect(&m, FEATURES);
        machine_stop(&m);
}

#define PRECIOUS "not a socket, and nobody else's business\n"

static void write_precious(const char *path) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

        cr_assert(fd >= 0 && write(fd, PRECIOUS, strlen(PRECIOUS)) == (ssize_t) strlen(PRECIOUS));
}

/* Connecting to an ordinary file is refused as it is on a socket that nobody listens on. */
TEST(start, ordinary_file_at_the_socket_path_survives) {
        char text[4096];
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(unlink(m.socket_path), 0);
        write_precious(m.socket_path);
        cr_assert_eq(start_second(&m, text, sizeof text), 1);
        cr_assert(strstr(text, "exists and is not a socket"), "%s", text);
        read_text(m.socket_path, text, sizeof text);
        cr_assert_str_eq(text, PRECIOUS);
        cr_assert_eq(unlink(m.socket_path), 0);
        machine_stop(&m);
}

TEST(start, end_removes_only_its_own_socket) {
        char text[4096];
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(unlink(m.socket_path), 0);
        write_precious(m.socket_path);
        machine_stop(&m);
        read_text(m.socket_path, text, sizeof text);
        cr_assert_str_eq(text, PRECIOUS);
        (void) unlink(m.socket_path);
        (void) rmdir(m.dir);
}
