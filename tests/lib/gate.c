/* SPDX-License-Identifier: MIT */
#include "tests/lib/gate.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/broker-fixture.h"
#include "tests/lib/gate-protocol.h"
#include "tests/lib/janitor.h"
#include "tests/lib/process.h"

#define ALL UINT64_MAX

static uint64_t gate_answer(struct test_gate *gate, const char *what) {
        uint64_t answer;

        cr_assert(poll(&(struct pollfd) { .fd = gate->socket, .events = POLLIN }, 1,
                       TEST_PATIENCE_US / USEC_PER_MSEC) == 1,
                  "gatefs: %s: it did not happen in time", what);
        cr_assert(recv(gate->socket, &answer, sizeof answer, 0) == sizeof answer, "gatefs has ended");
        return answer;
}

static uint64_t gate_order(struct test_gate *gate, const char *what, const struct gate_order *order) {
        cr_assert(send(gate->socket, order, sizeof *order, MSG_NOSIGNAL) == sizeof *order, "gatefs: %s",
                  strerror(errno));
        return gate_answer(gate, what);
}

void test_gate_start(struct test_gate *ret, const struct test_image *image) {
        int sockets[2];
        pid_t parent = getpid();

        *ret = (struct test_gate) { .image = image, .socket = -1 };
        (void) snprintf(ret->dir, sizeof ret->dir, "%s/gate-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(ret->dir) != NULL && chmod(ret->dir, 0755) == 0);
        (void) snprintf(ret->path, sizeof ret->path, "%s/" GATE_FILE, ret->dir);

        test_janitor_start();
        /* A mount namespace of our own: whatever happens to this test, no mount stays behind. In a chroot, whose root
         * is no mount point, that cannot be said, and the mount goes with gatefs. */
        cr_assert(unshare(CLONE_NEWNS) == 0, "unshare: %s", strerror(errno));
        cr_assert(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 || errno == EINVAL);
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
        ret->pid = fork();
        cr_assert(ret->pid >= 0);
        if (ret->pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent || dup2(sockets[1], GATE_SOCKET_FD) < 0)
                        _exit(126);
                (void) syscall(SYS_close_range, GATE_SOCKET_FD + 1, ~0u, 0);
                (void) execl(TEST_BUILD_ROOT "/tests/lib/gatefs", "gatefs", image->path, ret->dir, (char *) NULL);
                _exit(127);
        }
        (void) close(sockets[1]);
        ret->socket = sockets[0];
        test_janitor_watch(ret->pid);
        /* It says 0 when it has mounted. */
        cr_assert(gate_answer(ret, "mount") == 0, "gatefs could not mount");
}

void test_gate_stop(struct test_gate *gate) {
        int status;

        gate->socket = fd_close(gate->socket);
        cr_assert(waitpid(gate->pid, &status, 0) == gate->pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gatefs ended with status 0x%x", (unsigned) status);
        (void) rmdir(gate->dir);
}

const char *test_gate_memory(const char *name, const struct test_gate *gate, const char *more) {
        struct test_image shown = *gate->image;

        (void) snprintf(shown.path, sizeof shown.path, "%s", gate->path);
        return test_memory(name, &shown, more);
}

void test_gate_hold_turns(struct test_gate *gate, uint64_t offset, uint64_t length, struct test_gate_turns turns) {
        (void) gate_order(gate, "hold",
                          &(struct gate_order) { GATE_HOLD, turns.skip, turns.times, 0, offset, length, 0 });
}

void test_gate_hold(struct test_gate *gate, uint64_t offset, uint64_t length) {
        test_gate_hold_turns(gate, offset, length, TEST_GATE_ALWAYS);
}

void test_gate_fail(struct test_gate *gate, uint64_t offset, uint64_t length, int error, struct test_gate_turns turns) {
        (void) gate_order(gate, "fail",
                          &(struct gate_order) { GATE_FAIL, turns.skip, turns.times, (uint32_t) error, offset, length,
                                                 0 });
}

void test_gate_cut(struct test_gate *gate, uint64_t offset, uint64_t length, uint32_t bytes,
                   struct test_gate_turns turns) {
        (void) gate_order(gate, "cut",
                          &(struct gate_order) { GATE_CUT, turns.skip, turns.times, bytes, offset, length, 0 });
}

void test_gate_lie(struct test_gate *gate, uint64_t offset, uint64_t length, struct test_gate_turns turns) {
        (void) gate_order(gate, "lie",
                          &(struct gate_order) { GATE_LIE, turns.skip, turns.times, 0, offset, length, 0 });
}

void test_gate_release(struct test_gate *gate, uint64_t offset, uint64_t length) {
        (void) gate_order(gate, "release",
                          &(struct gate_order) { .what = GATE_RELEASE, .offset = offset, .length = length });
}

void test_gate_release_once(struct test_gate *gate, uint64_t offset, uint64_t length) {
        (void) gate_order(gate, "release",
                          &(struct gate_order) {
                                  .what = GATE_RELEASE, .value = 1, .offset = offset, .length = length });
}

void test_gate_open(struct test_gate *gate) {
        (void) gate_order(gate, "open", &(struct gate_order) { .what = GATE_OPEN, .length = ALL });
}

void test_gate_touch(struct test_gate *gate) {
        (void) gate_order(gate, "touch", &(struct gate_order) { .what = GATE_TOUCH });
}

void test_gate_resize(struct test_gate *gate, uint64_t size) {
        (void) gate_order(gate, "resize", &(struct gate_order) { .what = GATE_RESIZE, .n = size });
}

static uint64_t gate_count(struct test_gate *gate, enum gate_count which, uint64_t offset, uint64_t length) {
        return gate_order(gate, "count",
                          &(struct gate_order) {
                                  .what = GATE_COUNT, .value = which, .offset = offset, .length = length });
}

uint64_t test_gate_count(struct test_gate *gate, uint64_t offset, uint64_t length) {
        return gate_count(gate, GATE_ARRIVED, offset, length);
}

uint64_t test_gate_count_held(struct test_gate *gate, uint64_t offset, uint64_t length) {
        return gate_count(gate, GATE_HELD, offset, length);
}

static void gate_wait(struct test_gate *gate, const char *what, enum gate_count which, uint64_t offset, uint64_t length,
                      uint64_t n) {
        (void) gate_order(gate, what,
                          &(struct gate_order) {
                                  .what = GATE_WAIT, .value = which, .offset = offset, .length = length, .n = n });
}

void test_gate_wait_arrived(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n) {
        gate_wait(gate, "waiting for reads to arrive", GATE_ARRIVED, offset, length, n);
}

void test_gate_wait_answered(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n) {
        gate_wait(gate, "waiting for reads to be answered", GATE_ANSWERED, offset, length, n);
}

void test_gate_wait_held(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n) {
        gate_wait(gate, "waiting for reads to be held", GATE_HELD, offset, length, n);
}
