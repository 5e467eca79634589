/* SPDX-License-Identifier: MIT */
#include "tests/lib/janitor.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POOLS_MAX 4 /* sizes of huge pages */
#define WATCHED_MAX 1024

struct order {
        enum {
                WATCH,
                RESERVE
        } what;
        pid_t pid;
        uint64_t size;
        uint64_t n;
};

static int janitor = -1;
static pid_t janitor_of;

/* ---- in the janitor ---- */

struct pool {
        uint64_t size;
        int64_t before;
};

static int64_t pool_read(uint64_t size, const char *name) {
        char path[128];
        long long value;
        FILE *f;

        (void) snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
                        (unsigned long long) (size / 1024), name);
        f = fopen(path, "re");
        if (!f)
                return -errno;
        if (fscanf(f, "%lld", &value) != 1)
                value = -EIO;
        (void) fclose(f);
        return value;
}

static int pool_resize(uint64_t size, int64_t n) {
        char path[128];
        FILE *f;
        int ret = 0;

        (void) snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages",
                        (unsigned long long) (size / 1024));
        f = fopen(path, "we");
        if (!f)
                return -errno;
        if (fprintf(f, "%lld", (long long) n) < 0)
                ret = -EIO;
        if (fclose(f) != 0)
                ret = -errno;
        return ret;
}

/* Locks the pool until this process ends, so tests that want such pages go one after the other, whoever runs them. */
static int pool_take(struct pool *pool, uint64_t size) {
        char path[128];
        int fd;

        (void) snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages",
                        (unsigned long long) (size / 1024));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || flock(fd, LOCK_EX) < 0)
                return -errno;
        *pool = (struct pool) { size, pool_read(size, "nr_hugepages") };
        return 0;
}

/* What a new mapping can have: free pages may be promised to an older one that has not touched them yet. */
static int64_t pool_available(uint64_t size) {
        int64_t free_pages = pool_read(size, "free_hugepages"), promised = pool_read(size, "resv_hugepages");

        return free_pages < 0 || promised < 0 ? free_pages : free_pages - promised;
}

static int64_t pool_reserve(struct pool pools[], uint64_t size, uint64_t n) {
        int64_t free_pages, total;
        struct pool *pool = pools;
        int r;

        while (pool->size && pool->size != size)
                if (++pool == pools + POOLS_MAX)
                        return -ENOSPC;
        if (!pool->size) {
                r = pool_take(pool, size);
                if (r < 0)
                        return r;
        }
        total = pool_read(size, "nr_hugepages");
        free_pages = pool_available(size);
        if (total < 0 || free_pages < 0)
                return total < 0 ? total : free_pages;
        if (free_pages < (int64_t) n) {
                r = pool_resize(size, total + (int64_t) n - free_pages);
                if (r < 0)
                        return r;
        }
        return pool_available(size);
}

/* Pages in use cannot be taken away; their users have just been killed and may need a moment. */
static void pool_restore(const struct pool *pool) {
        for (int i = 0; i < 200; i++) {
                (void) pool_resize(pool->size, pool->before);
                if (pool_read(pool->size, "nr_hugepages") <= pool->before)
                        return;
                (void) nanosleep(&(struct timespec) { .tv_nsec = 10000000 }, NULL);
        }
}

static void janitor_run(int socket) {
        struct pool pools[POOLS_MAX] = { 0 };
        int pidfds[WATCHED_MAX], n = 0;
        struct order order;

        while (recv(socket, &order, sizeof order, 0) == sizeof order) {
                int64_t answer = 0;

                if (order.what == RESERVE)
                        answer = pool_reserve(pools, order.size, order.n);
                else if (n < WATCHED_MAX) {
                        int fd = (int) syscall(SYS_pidfd_open, order.pid, 0);

                        if (fd >= 0)
                                pidfds[n++] = fd;
                }
                (void) send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
        }
        for (int i = 0; i < n; i++)
                (void) syscall(SYS_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
        /* Whoever takes the pool next must not find pages that are only just coming back. */
        for (int i = 0; i < n && pools[0].size; i++)
                (void) poll(&(struct pollfd) { .fd = pidfds[i], .events = POLLIN }, 1, 10000);
        for (struct pool *pool = pools; pool < pools + POOLS_MAX && pool->size; pool++)
                pool_restore(pool);
}

/* ---- in the test ---- */

void test_janitor_start(void) {
        int sockets[2];
        pid_t pid;

        if (janitor_of == getpid())
                return;
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
        pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                /* Out of the process group, which the test runner kills as a whole; off every descriptor, so that
                 * nobody waits for this process to end. */
                (void) setsid();
                if (dup2(sockets[1], 3) < 0)
                        _exit(1);
                (void) syscall(SYS_close_range, 4, ~0u, 0);
                for (int fd = 0; fd < 3; fd++)
                        (void) close(fd);
                (void) open("/dev/null", O_RDWR);
                janitor_run(3);
                _exit(0);
        }
        (void) close(sockets[1]);
        janitor = sockets[0];
        janitor_of = getpid();
}

static int64_t janitor_order(const struct order *order) {
        int64_t answer;

        test_janitor_start();
        cr_assert(send(janitor, order, sizeof *order, MSG_NOSIGNAL) == sizeof *order);
        cr_assert(recv(janitor, &answer, sizeof answer, 0) == sizeof answer);
        return answer;
}

void test_janitor_watch(pid_t pid) {
        (void) janitor_order(&(struct order) { .what = WATCH, .pid = pid });
}

int64_t test_janitor_reserve_hugepages(uint64_t size, uint64_t n) {
        return janitor_order(&(struct order) { .what = RESERVE, .size = size, .n = n });
}
