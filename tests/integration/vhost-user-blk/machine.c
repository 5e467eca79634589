/* SPDX-License-Identifier: MIT */
#include "tests/integration/vhost-user-blk/machine.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"
#include "tests/lib/connect.h"

#define PATIENCE_MS ((int) (TEST_PATIENCE_US / USEC_PER_MSEC))
#define PROGRAM TEST_BUILD_ROOT "/examples/vhost-user-blk/vhost-user-blk"

uint8_t pattern(unsigned seed, uint64_t i) {
        return (uint8_t) ((i * 2654435761u + seed * 40503u) >> 7 ^ i >> 9);
}

void *machine_at(struct machine *machine, uint64_t gpa) {
        if (machine->image)
                return machine->image + gpa;
        if (machine->pages)
                return pages_at(machine->pages, gpa);
        test_ensure(machine->client, gpa, 1, PB_WRITE);
        return pb_translate(machine->client, gpa, 1);
}

void machine_fill(struct machine *machine, uint64_t gpa, uint64_t len, unsigned seed) {
        for (uint64_t i = 0; i < len; i++)
                *(uint8_t *) machine_at(machine, gpa + i) = pattern(seed, i);
}

bool machine_holds(struct machine *machine, uint64_t gpa, uint64_t len, unsigned seed) {
        for (uint64_t i = 0; i < len; i++)
                if (*(uint8_t *) machine_at(machine, gpa + i) != pattern(seed, i))
                        return false;
        return true;
}

/* ---- the device's process ---- */

struct launch {
        const char *argv[16];
        const char *log_path;
        char notify[64];
};

static int launch(void *arg) {
        struct launch *launch = arg;
        int fd = open(launch->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

        CHILD_CHECK(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0 && setenv("NOTIFY_SOCKET", launch->notify, 1) == 0);
        CHILD_CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
        (void) execv(launch->argv[0], (char *const *) (uintptr_t) launch->argv);
        CHILD_CHECK(false);
}

static int notify_open(char *ret, size_t size) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        socklen_t length = sizeof addr;
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &addr, sizeof(sa_family_t)) == 0);
        cr_assert(getsockname(fd, (struct sockaddr *) &addr, &length) == 0);
        (void) snprintf(ret, size, "@%.*s", (int) (length - sizeof(sa_family_t) - 1), addr.sun_path + 1);
        return fd;
}

static void machine_wait_ready(struct machine *machine, int notify) {
        char text[64] = "";

        cr_assert(poll(&(struct pollfd) { .fd = notify, .events = POLLIN }, 1, PATIENCE_MS) == 1, "no READY=1");
        cr_assert(recv(notify, text, sizeof text - 1, 0) > 0);
        cr_assert_str_eq(text, "READY=1");
        machine->n_descriptors = test_descriptors_count(machine->pid);
}

static void machine_launch(struct machine *machine, const struct machine_options *options) {
        char socket[128], disk[128], pagebroker[128];
        struct launch launch_args = { .log_path = machine->log_path };
        const char *address = options->pagebroker ?: machine->pages->path;
        unsigned n = 0;
        int notify = notify_open(launch_args.notify, sizeof launch_args.notify);

        (void) snprintf(socket, sizeof socket, "--socket=%s", machine->socket_path);
        (void) snprintf(disk, sizeof disk, "--file=%s", machine->disk_path);
        (void) snprintf(pagebroker, sizeof pagebroker, "--pagebroker=%s", address);
        launch_args.argv[n++] = options->pagebroker ? PROGRAM : MACHINE_STAND_IN_PROGRAM;
        launch_args.argv[n++] = socket;
        launch_args.argv[n++] = disk;
        launch_args.argv[n++] = pagebroker;
        for (unsigned i = 0; i < ELEMENTS(options->args) && options->args[i]; i++)
                launch_args.argv[n++] = options->args[i];
        machine->pid = test_child_start((uid_t) -1, launch, &launch_args);
        machine->pidfd = (int) syscall(SYS_pidfd_open, machine->pid, 0);
        cr_assert(machine->pidfd >= 0);
        if (machine->pages)
                pages_accept(machine->pages);
        machine_wait_ready(machine, notify);
        (void) fd_close(notify);
}

/* ---- start and stop ---- */

void machine_prepare(struct machine *machine) {
        int fd;

        *machine = (struct machine) { .socket = -1, .memory_fd = -1, .pidfd = -1 };
        (void) snprintf(machine->dir, sizeof machine->dir, "%s/blk-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(machine->dir) != NULL);
        (void) snprintf(machine->disk_path, sizeof machine->disk_path, "%s/disk", machine->dir);
        (void) snprintf(machine->socket_path, sizeof machine->socket_path, "%s/socket", machine->dir);
        (void) snprintf(machine->log_path, sizeof machine->log_path, "%s/log", machine->dir);
        fd = open(machine->disk_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0);
        machine->disk = mmap(NULL, DISK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(machine->disk != MAP_FAILED);
        (void) fd_close(fd);
        for (uint64_t i = 0; i < DISK_SIZE; i++)
                machine->disk[i] = (char) pattern(77, i);
        for (unsigned i = 0; i < ELEMENTS(machine->queues); i++)
                queue_init(&machine->queues[i], i);
}

void machine_connect(struct machine *machine, uint64_t features) {
        struct vu_region region = { .size = MEMORY_SIZE, .user = VMM_USER_BASE };

        machine->socket = vmm_connect(machine->socket_path);
        vmm_negotiate(machine->socket, features);
        cr_assert(vmm_set_memory(machine->socket, &region, 1, &machine->memory_fd));
}

void machine_disconnect(struct machine *machine) {
        machine->socket = fd_close(machine->socket);
}

void machine_run(struct machine *machine, const struct machine_options *options) {
        machine_launch(machine, options);
        if (options->no_queues)
                return;
        machine_connect(machine, options->features ?: FEATURES);
        for (unsigned i = 0; i < ELEMENTS(machine->queues); i++)
                cr_assert(queue_start(machine, &machine->queues[i], 0));
}

void machine_start_prepared(struct machine *machine, const struct machine_options *options) {
        struct pages_options pages_options = {
                .size = MEMORY_SIZE,
                .present = !options->absent,
                .limit = options->limit,
                .n_regions = options->n_regions,
        };
        char path[96];

        memcpy(pages_options.regions, options->regions, sizeof options->regions);
        (void) snprintf(path, sizeof path, "%s/pages", machine->dir);
        machine->pages = calloc(1, sizeof *machine->pages);
        cr_assert(machine->pages);
        pages_open(machine->pages, path, &pages_options);
        machine->memory_fd = machine->pages->memory;
        machine->serve = options->absent;
        machine_run(machine, options);
}

void machine_start(struct machine *machine, const struct machine_options *options) {
        machine_prepare(machine);
        machine_start_prepared(machine, options);
}

static void machine_forget(struct machine *machine) {
        machine_disconnect(machine);
        machine->pidfd = fd_close(machine->pidfd);
        for (unsigned i = 0; i < ELEMENTS(machine->queues); i++)
                queue_close(&machine->queues[i]);
        if (machine->pages)
                pages_close(machine->pages);
        free(machine->pages);
        (void) munmap(machine->disk, DISK_SIZE);
        (void) unlink(machine->disk_path);
        (void) unlink(machine->log_path);
        (void) rmdir(machine->dir);
}

int machine_wait_end(struct machine *machine) {
        int status = test_child_wait(machine->pid);

        cr_assert(!machine_logged(machine, "Sanitizer") && !machine_logged(machine, "runtime error"));
        machine_forget(machine);
        return status;
}

void machine_stop(struct machine *machine) {
        machine_disconnect(machine);
        if (!EVENTUALLY(test_descriptors_count(machine->pid) <= machine->n_descriptors)) {
                test_descriptors_show(machine->pid);
                cr_assert_fail("the device keeps descriptors of a front-end that is gone");
        }
        cr_assert(kill(machine->pid, SIGTERM) == 0);
        cr_assert_eq(machine_wait_end(machine), 0);
}

/* ---- what it says ---- */

/* Into the caller's variable: gcc 12 at -O3 takes a pointer into the text for one to a local variable of ours. */
static void machine_log(const struct machine *machine, char **ret) {
        FILE *f = fopen(machine->log_path, "re");
        size_t size = 0;

        *ret = NULL;
        if (!f || getdelim(ret, &size, 0, f) < 0) {
                free(*ret);
                *ret = strdup("");
        }
        if (f)
                (void) fclose(f);
        cr_assert(*ret);
}

bool machine_logged(const struct machine *machine, const char *text) {
        _cleanup_free_ char *log = NULL;

        machine_log(machine, &log);
        return strstr(log, text) != NULL;
}

long machine_statistic(struct machine *machine, const char *name) {
        _cleanup_free_ char *log = NULL;
        char key[32], *line = NULL;

        /* The line is written after the signal, before anything else: an empty log first tells them apart. */
        cr_assert(truncate(machine->log_path, 0) == 0 && kill(machine->pid, SIGUSR1) == 0);
        cr_assert(EVENTUALLY(machine_logged(machine, "waited=")));
        machine_log(machine, &log);
        (void) snprintf(key, sizeof key, " %s=", name);
        line = strstr(log, key);
        cr_assert(line, "no %s in: %s", name, log);
        return strtol(line + strlen(key), NULL, 10);
}
