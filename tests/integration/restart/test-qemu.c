/* SPDX-License-Identifier: MIT */
/*
 * An unmodified QEMU under pagebroker-run, with a guest that is restored from a snapshot of it and looks at its memory page by
 * page, writes into it, and lets QEMU write into it, while brokers die. In the end it looks at everything again.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/integration/preload/run-target.h"
#include "tests/integration/restart/kill.h"
#include "tests/integration/restart/qemu-guest.h"

#define ARGS_MAX 48
#define MIB (1ull << 20)

static const char guest[] = TEST_BUILD_ROOT "/tests/integration/restart/qemu-guest";

/* ---- a QEMU ---- */

struct qemu {
        const char *argv[ARGS_MAX];
        unsigned n_args;
        char object[256], append[32], size[32];
        int serial, qmp; /* our ends */
        int serial_child, qmp_child;
        pid_t pid;
};

static int exec_qemu(void *arg) {
        const struct qemu *qemu = arg;

        CHILD_CHECK(dup2(qemu->serial_child, STDIN_FILENO) >= 0 && dup2(qemu->serial_child, STDOUT_FILENO) >= 0);
        CHILD_CHECK(dup2(qemu->qmp_child, 3) >= 0);
        (void) execvp(qemu->argv[0], (char *const *) qemu->argv);
        return 121;
}

static void say(struct qemu *qemu, const char *line) {
        ssize_t n = (ssize_t) strlen(line);

        cr_assert_eq(write(qemu->qmp, line, (size_t) n), n);
}

/* The next line that is an answer; events are passed over. */
static void hear(struct qemu *qemu, char *line, size_t size) {
        do {
                size_t n = 0;

                while (n < size - 1 && (n == 0 || line[n - 1] != '\n')) {
                        cr_assert_eq(read(qemu->qmp, line + n, 1), 1, "QEMU has ended, or says nothing any more");
                        n++;
                }
                line[n] = 0;
        } while (strstr(line, "\"event\":"));
        cr_assert(!strstr(line, "\"error\":"), "%s", line);
}

static void order(struct qemu *qemu, const char *command) {
        char line[4096];

        say(qemu, command);
        hear(qemu, line, sizeof line);
}

static bool has_migrated(struct qemu *qemu) {
        char line[4096];

        say(qemu, "{\"execute\":\"query-migrate\"}\n");
        hear(qemu, line, sizeof line);
        cr_assert(!strstr(line, "\"failed\""), "%s", line);
        return strstr(line, "\"completed\"");
}

static void add(struct qemu *qemu, const char *const words[]) {
        for (; *words; words++) {
                cr_assert(qemu->n_args < ARGS_MAX - 1);
                qemu->argv[qemu->n_args++] = *words;
        }
}

/* `run`: NULL, or what goes in front. */
static void qemu_start(struct qemu *qemu, const char *const run[], const char *memory_path, uint64_t n_pages, bool incoming) {
        struct timeval patience = { .tv_sec = TEST_PATIENCE_US / USEC_PER_SEC };
        int serial[2], qmp[2];
        char line[4096];

        *qemu = (struct qemu) { .pid = -1 };
        /* The firmware's tables are at the end. */
        (void) snprintf(qemu->size, sizeof qemu->size, "%lluM",
                        (unsigned long long) ((QEMU_GUEST_FIRST + n_pages * QEMU_GUEST_PAGE) / MIB + 2));
        (void) snprintf(qemu->object, sizeof qemu->object, "memory-backend-file,id=ram,size=%s,mem-path=%s,share=on", qemu->size,
                        memory_path);
        (void) snprintf(qemu->append, sizeof qemu->append, "%llu", (unsigned long long) n_pages);
        if (run)
                add(qemu, run);
        add(qemu, (const char *const[]) { "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine",
                                          "q35,memory-backend=ram", "-accel", "tcg", "-m", qemu->size, "-object", qemu->object,
                                          "-kernel", guest, "-append", qemu->append, "-serial", "stdio", "-chardev",
                                          "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", NULL });
        if (incoming)
                add(qemu, (const char *const[]) { "-incoming", "defer", NULL });
        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, serial) == 0);
        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp) == 0);
        qemu->serial = serial[0];
        qemu->serial_child = serial[1];
        qemu->qmp = qmp[0];
        qemu->qmp_child = qmp[1];
        cr_assert(setsockopt(qemu->serial, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
        cr_assert(setsockopt(qemu->qmp, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
        qemu->pid = test_child_start((uid_t) -1, exec_qemu, qemu);
        (void) close(serial[1]);
        (void) close(qmp[1]);
        hear(qemu, line, sizeof line); /* the greeting */
        order(qemu, "{\"execute\":\"qmp_capabilities\"}\n");
        /* Shared memory stays out of the stream. */
        order(qemu, "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
                    "[{\"capability\":\"x-ignore-shared\",\"state\":true}]}}\n");
}

static void qemu_quit(struct qemu *qemu) {
        order(qemu, "{\"execute\":\"quit\"}\n");
        cr_assert_eq(test_child_wait(qemu->pid), 0);
        (void) close(qemu->serial);
        (void) close(qemu->qmp);
}

/* ---- the guest ---- */

static void guest_told(struct qemu *qemu, char what) {
        cr_assert_eq(write(qemu->serial, &what, 1), 1);
}

static void guest_says(struct qemu *qemu, char expected) {
        char c = 0;

        cr_assert_eq(read(qemu->serial, &c, 1), 1, "the guest says nothing");
        cr_assert_eq(c, expected, "the guest says '%c'%s", c, c == 'X' ? ": a byte is not what it must be" : "");
}

/* ---- the test ---- */

struct snapshot {
        char memory[96], state[96];
        uint64_t n_pages;
};

static void snapshot_make(struct snapshot *snapshot, uint64_t n_pages) {
        const char *dir = getenv("TMPDIR") ?: "/tmp";
        char command[512];
        struct qemu qemu;

        *snapshot = (struct snapshot) { .n_pages = n_pages };
        (void) snprintf(snapshot->memory, sizeof snapshot->memory, "%s/qemu-memory", dir);
        (void) snprintf(snapshot->state, sizeof snapshot->state, "%s/qemu-state", dir);
        qemu_start(&qemu, NULL, snapshot->memory, n_pages, false);
        guest_says(&qemu, 'R');
        order(&qemu, "{\"execute\":\"stop\"}\n");
        (void) snprintf(command, sizeof command,
                        "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:cat>%s.part && mv %s.part %s\"}}\n",
                        snapshot->state, snapshot->state, snapshot->state);
        order(&qemu, command);
        cr_assert(EVENTUALLY(has_migrated(&qemu)));
        qemu_quit(&qemu);
        /* cat may still have a part of it when QEMU has not. */
        cr_assert(EVENTUALLY(access(snapshot->state, F_OK) == 0));
}

static void snapshot_unlink(struct snapshot *snapshot) {
        cr_assert(unlink(snapshot->memory) == 0 && unlink(snapshot->state) == 0);
}

static void broker_start(struct test_broker *broker, const struct snapshot *snapshot) {
        static char memory[160];
        struct stat st;

        cr_assert(stat(snapshot->memory, &st) == 0);
        (void) snprintf(memory, sizeof memory, "--memory=ram,size=%llu,source=file:%s", (unsigned long long) st.st_size,
                        snapshot->memory);
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { memory, "--fill=off", "--fault-around=4K",
                                                                          "--seccomp=on", NULL },
                                  });
}

static void make_cold(const struct snapshot *snapshot) {
        _cleanup_close_ int fd = open(snapshot->memory, O_RDONLY | O_CLOEXEC);

        cr_assert(fd >= 0 && fdatasync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
}

static uint64_t pages_present(const struct test_broker *broker) {
        return target_stats(broker).pages_present;
}

TEST(qemu, restores_and_goes_on_over_random_kills) {
        const unsigned n_kills = 8 * kill_count();
        const uint64_t n_pages = (uint64_t) (n_kills + 1) * QEMU_GUEST_STEP;
        struct test_broker broker;
        struct snapshot snapshot;
        struct qemu qemu;
        uint64_t state = 13;
        char socket[128], command[256];

        require_uffd();
        require_program("qemu-system-x86_64");
        snapshot_make(&snapshot, n_pages);
        broker_start(&broker, &snapshot);
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker.address);
        qemu_start(&qemu, (const char *const[]) { pagebroker_run, preload_option, socket, "--", NULL }, "{memory0}", n_pages, true);
        /* It has mapped the memory. One dies while it loads its state, */
        (void) snprintf(command, sizeof command, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"exec:cat %s\"}}\n",
                        snapshot.state);
        order(&qemu, command);
        test_broker_kill_served(&broker);
        cr_assert(EVENTUALLY(has_migrated(&qemu)));
        test_broker_wait_next(&broker);
        order(&qemu, "{\"execute\":\"cont\"}\n");
        cr_assert_lt(pages_present(&broker), n_pages / 2, "it is not restored lazily");
        /* and the others while the guest is on its way. */
        for (unsigned i = 0; i < n_kills; i++) {
                make_cold(&snapshot);
                guest_told(&qemu, 's');
                (void) usleep((useconds_t) (next_random(&state) % 3000));
                test_broker_kill_served(&broker);
                guest_says(&qemu, '.');
                test_broker_wait_next(&broker);
        }
        /* Pages are counted after those who wait for them are woken. */
        cr_assert(EVENTUALLY(pages_present(&broker) >= n_kills * QEMU_GUEST_STEP));
        guest_told(&qemu, 'c');
        guest_says(&qemu, '.');
        cr_assert_eq(broker.n_starts, n_kills + 2);
        qemu_quit(&qemu);
        test_broker_stop(&broker);
        snapshot_unlink(&snapshot);
}
