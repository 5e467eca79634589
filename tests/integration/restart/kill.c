/* SPDX-License-Identifier: MIT */
#include "tests/integration/restart/kill.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/test.h"

#define KILLS_DEFAULT 3
#define KILLS_MAX 25 /* more would not fit into the memory of some tests */

static char path[128];

struct kill_order *kill_order_new(void) {
        struct kill_order *order;
        int fd;

        (void) snprintf(path, sizeof path, "%s/kill-order-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        fd = mkstemp(path);
        cr_assert(fd >= 0 && ftruncate(fd, sizeof *order) == 0);
        order = mmap(NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(order != MAP_FAILED);
        (void) close(fd);
        cr_assert(setenv(KILL_ORDER_ENVIRONMENT, path, 1) == 0);
        cr_assert(setenv("PAGEBROKERD", TEST_BUILD_ROOT "/tests/integration/restart/pagebrokerd-kill", 1) == 0);
        return order;
}

void kill_order_free(struct kill_order *order) {
        (void) munmap(order, sizeof *order);
        (void) unlink(path);
        (void) unsetenv(KILL_ORDER_ENVIRONMENT);
        (void) unsetenv("PAGEBROKERD");
}

void kill_order_give(struct kill_order *order, const char *name, int skip) {
        cr_assert_eq(atomic_load(&order->budget), 0, "the broker before this one has not died at %s", order->name);
        (void) snprintf(order->name, sizeof order->name, "%s", name);
        atomic_store(&order->skip, skip);
        atomic_store(&order->budget, 1);
}

_Bool kill_order_is_done(struct kill_order *order) {
        return EVENTUALLY(atomic_load(&order->budget) == 0);
}

unsigned kill_count(void) {
        const char *text = getenv("PB_KILLS");
        int n = text ? atoi(text) : KILLS_DEFAULT;

        cr_assert(n > 0 && n <= KILLS_MAX, "PB_KILLS=%s: 1 to %d", text, KILLS_MAX);
        return (unsigned) n;
}
