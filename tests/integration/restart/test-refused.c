/* SPDX-License-Identifier: MIT */
/* What the next broker must not carry on, and must not touch. The test is the supervisor here. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "examples/supervisor/child.h"
#include "examples/supervisor/notify.h"
#include "examples/supervisor/store.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/janitor.h"

#define N_PAGES 512u
#define EXIT_AGAIN 4 /* pagebrokerd(8): it did not start, and a VM waits */

static struct test_image image;

struct fixture {
        struct store store;
        char dir[64], socket[128], notify_address[128];
        int notify;
};

static void fixture_start(struct fixture *f) {
        (void) snprintf(f->dir, sizeof f->dir, "%s/restart-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(f->dir) != NULL);
        (void) snprintf(f->socket, sizeof f->socket, "--socket=%s/socket", f->dir);
        f->notify = notify_listen(f->notify_address, sizeof f->notify_address);
        cr_assert(f->notify >= 0 && store_init(&f->store, 128) == 0);
        test_image_make(&image, &(struct test_image_spec) { .seed = 331, .n_pages = N_PAGES });
        test_janitor_start();
}

static void fixture_stop(struct fixture *f) {
        char path[128];

        store_done(&f->store);
        (void) close(f->notify);
        (void) snprintf(path, sizeof path, "%s/socket", f->dir);
        (void) unlink(path);
        (void) snprintf(path, sizeof path, "%s/log", f->dir);
        (void) unlink(path);
        cr_assert(rmdir(f->dir) == 0);
        test_image_unlink(&image);
}

static pid_t launch(struct fixture *f, const char *memory, const char *option) {
        const char *path = getenv("PAGEBROKERD") ?: TEST_BUILD_ROOT "/broker/pagebrokerd";
        char log[128], command[1024];
        char *argv[] = { (char *) "sh", (char *) "-c", command, NULL };
        struct child_options options = { .argv = argv, .notify = f->notify_address, .store = &f->store,
                                         .death_signal = SIGKILL };
        pid_t pid;

        (void) snprintf(log, sizeof log, "%s/log", f->dir);
        (void) snprintf(command, sizeof command, "exec %s --name=test %s --fill=off %s %s %s >>%s 2>&1", path, f->socket, memory,
                        option, TEST_SANITIZED ? "--seccomp=off" : "", log);
        pid = child_start(&options);
        cr_assert(pid > 0);
        test_janitor_watch(pid);
        return pid;
}

static bool logged(const struct fixture *f, const char *text) {
        char path[128], log[16384];
        _cleanup_close_ int fd = -1;
        ssize_t n;

        (void) snprintf(path, sizeof path, "%s/log", f->dir);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, log, sizeof log - 1);
        log[n > 0 ? n : 0] = 0;
        return strstr(log, text) != NULL;
}

/* Takes what `pid` says until there is nothing more. True: READY=1 was in it. */
static bool take_messages(struct fixture *f, pid_t pid) {
        struct notify_message message;
        bool ready = false;

        while (notify_receive(f->notify, &message) == 0) {
                cr_assert_eq(message.sender, pid);
                for (unsigned i = 0; i < message.n_fds && message.store; i++) {
                        cr_assert_eq(store_add(&f->store, message.name, message.fds[i]), 0);
                        message.fds[i] = -1;
                }
                if (message.forget)
                        store_remove(&f->store, message.name);
                ready = ready || message.ready;
                notify_message_done(&message);
        }
        return ready;
}

static bool becomes_ready(struct fixture *f, pid_t pid) {
        return EVENTUALLY(take_messages(f, pid));
}

static int wait_end(pid_t pid) {
        int status;

        cr_assert(waitpid(pid, &status, 0) == pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void kill_it(struct fixture *f, pid_t pid) {
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(wait_end(pid), -SIGKILL);
        (void) take_messages(f, pid);
}

/* A descriptor of what `entry` is, with an open file of its own: a store keeps each of those once. */
static int copy_entry(const struct store_entry *entry) {
        char path[64];
        siginfo_t info;
        pid_t pid;
        int fd;

        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", entry->fd);
        if (strncmp(entry->name, "pb-map", 6) == 0)
                return open(path, O_RDONLY | O_CLOEXEC);
        pid = fork();
        if (pid == 0)
                _exit(0);
        cr_assert(pid > 0 && waitid(P_PID, (id_t) pid, &info, WEXITED | WNOWAIT) == 0);
        fd = (int) syscall(SYS_pidfd_open, pid, 0);
        cr_assert_eq(wait_end(pid), 0);
        return fd;
}

/* As if `n` earlier lives had left it too. */
static void multiply_entry(struct fixture *f, const char *prefix, unsigned n) {
        const struct store_entry *entry = f->store.entries;
        unsigned long long epoch;
        char name[64];

        while (strncmp(entry->name, prefix, strlen(prefix)) != 0)
                entry++;
        cr_assert(sscanf(entry->name + strlen(prefix), "%llx", &epoch) == 1);
        for (unsigned i = 1; i <= n; i++) {
                int fd = copy_entry(entry);

                cr_assert(fd >= 0);
                (void) snprintf(name, sizeof name, "%s%llx", prefix, epoch ^ (unsigned long long) i << 40);
                cr_assert_eq(store_add(&f->store, name, fd), 0);
        }
}

static const char *memory(void) {
        return TEST_MEMORY("ram0", &image);
}

/* The second one ends with the status that says that a VM waits, with these words, and leaves everything for a third one that is right. */
static void is_refused(const char *second_memory, const char *second_option, void (*meanwhile)(void), void (*undo)(void),
                       const char *words) {
        struct fixture f;
        unsigned kept;
        int status;
        pid_t pid;

        fixture_start(&f);
        pid = launch(&f, memory(), "");
        cr_assert(becomes_ready(&f, pid));
        kill_it(&f, pid);
        kept = f.store.n_entries;
        cr_assert_gt(kept, 0);
        if (meanwhile)
                meanwhile();
        pid = launch(&f, second_memory ?: memory(), second_option);
        status = wait_end(pid);
        cr_assert_eq(status, EXIT_AGAIN, "it ended with %d", status);
        cr_assert(!take_messages(&f, pid));
        cr_assert(logged(&f, words));
        cr_assert_eq(f.store.n_entries, kept);
        if (undo)
                undo();
        if (undo || !meanwhile) {
                pid = launch(&f, memory(), "");
                cr_assert(becomes_ready(&f, pid));
                kill_it(&f, pid);
        }
        fixture_stop(&f);
}

static struct stat image_was;

static void touch_image(void) {
        struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1000000000 } };

        cr_assert(stat(image.path, &image_was) == 0);
        cr_assert(utimensat(AT_FDCWD, image.path, times, 0) == 0);
}

static void untouch_image(void) {
        struct timespec times[2] = { image_was.st_atim, image_was.st_mtim };

        cr_assert(utimensat(AT_FDCWD, image.path, times, 0) == 0);
}

TEST(refused, source_that_has_changed) {
        is_refused(NULL, "", touch_image, untouch_image, "is not what it was for the broker before this one");
}

/* By the same bytes, but who knows? The new file has another name, which the second broker is told. */
static void replace_image(void) {
        char other[160];

        (void) snprintf(other, sizeof other, "%s.other", image.path);
        cr_assert(rename(image.path, other) == 0);
        test_image_make(&image, &(struct test_image_spec) { .seed = 331, .n_pages = N_PAGES });
        cr_assert(unlink(other) == 0);
}

TEST(refused, source_that_was_replaced) {
        is_refused(NULL, "", replace_image, NULL, "is not what it was for the broker before this one");
}

TEST(refused, memory_of_another_size) {
        is_refused("--memory=ram0,size=1M --region=0,size=1M,memory=ram0", "", NULL, NULL, "other memories or other regions");
}

TEST(refused, memory_without_its_source) {
        is_refused("--memory=ram0,size=2M", "", NULL, NULL, "is not what it was for the broker before this one");
}

/* One that may leave must not become one that stays, for those who hold it; without regions nothing else tells them apart. */
TEST(refused, memory_that_may_be_unplugged_no_longer) {
        const char *region = "--region=0,size=2M,memory=ram0 --memory=dimm0,size=1M,plugged=off";
        struct fixture f;
        pid_t pid;

        fixture_start(&f);
        pid = launch(&f, memory(), region);
        cr_assert(becomes_ready(&f, pid));
        kill_it(&f, pid);
        pid = launch(&f, memory(), "--region=0,size=2M,memory=ram0 --memory=dimm0,size=1M");
        cr_assert_eq(wait_end(pid), EXIT_AGAIN);
        cr_assert(!take_messages(&f, pid));
        cr_assert(logged(&f, "plugged= cannot change"));
        pid = launch(&f, memory(), region);
        cr_assert(becomes_ready(&f, pid));
        kill_it(&f, pid);
        fixture_stop(&f);
}

TEST(refused, other_regions) {
        is_refused(NULL, "--region=1M,size=1M,memory=ram0", NULL, NULL, "other memories or other regions");
}

/* Lives that ended in their take-over have left a map each, and a pidfd: more than one could count on. All go with the first one
 * that gets through, or the store would be full one day. */
TEST(refused, nothing_of_many_earlier_lives_stays_in_the_store) {
        struct fixture f;
        unsigned kept;
        pid_t pid;

        fixture_start(&f);
        pid = launch(&f, memory(), "");
        cr_assert(becomes_ready(&f, pid));
        kill_it(&f, pid);
        kept = f.store.n_entries;
        multiply_entry(&f, "pb-map-0-", 40);
        multiply_entry(&f, "pb-broker-", 40);
        cr_assert_eq(f.store.n_entries, kept + 80);
        pid = launch(&f, memory(), "");
        cr_assert(becomes_ready(&f, pid));
        cr_assert(EVENTUALLY((take_messages(&f, pid), f.store.n_entries == kept)), "%u entries, and not %u",
                  f.store.n_entries, kept);
        kill_it(&f, pid);
        fixture_stop(&f);
}

/* Two of them would both write memory and map. The second one touches nothing while the first one lives. */
TEST(refused, while_the_one_before_lives) {
        struct fixture f;
        pid_t first, second;
        struct pollfd pollfd;

        fixture_start(&f);
        first = launch(&f, memory(), "");
        cr_assert(becomes_ready(&f, first));
        second = launch(&f, memory(), "");
        cr_assert(EVENTUALLY(logged(&f, "waiting for the broker before this one to end")));
        pollfd = (struct pollfd) { .fd = f.notify, .events = POLLIN };
        cr_assert_eq(poll(&pollfd, 1, 0), 0, "it has said something");
        cr_assert(kill(first, 0) == 0);
        cr_assert(kill(first, SIGKILL) == 0);
        cr_assert_eq(wait_end(first), -SIGKILL);
        cr_assert(becomes_ready(&f, second));
        kill_it(&f, second);
        fixture_stop(&f);
}
