/* SPDX-License-Identifier: MIT */
/* In the broker that is built for tests: dies where kill-point.h says, when the shared file (kill.h) says so. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/kill-point.h"
#include "tests/integration/restart/kill.h"

static struct kill_order *order;

/* Before the filter, which lets nothing be opened. */
static void __attribute__((constructor)) kill_point_init(void) {
        const char *path = getenv(KILL_ORDER_ENVIRONMENT);
        int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        void *map;

        if (fd < 0)
                return;
        map = mmap(NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        (void) close(fd);
        if (map != MAP_FAILED)
                order = map;
}

void kill_point(const char *name) {
        int left;

        if (!order || (left = atomic_load(&order->budget)) <= 0 || strcmp(order->name, name) != 0)
                return;
        if (atomic_fetch_sub(&order->skip, 1) > 0)
                return;
        while (left > 0 && !atomic_compare_exchange_weak(&order->budget, &left, left - 1))
                ;
        if (left <= 0)
                return;
        /* Nothing of this process comes after this call: the whole group is killed on the way out of it. */
        (void) syscall(SYS_tgkill, getpid(), (pid_t) syscall(SYS_gettid), SIGKILL);
        for (;;)
                (void) pause();
}
