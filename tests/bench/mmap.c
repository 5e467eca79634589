/* SPDX-License-Identifier: MIT */
/* No broker at all: a shared mapping of the image itself. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/bench/bench.h"

static void start(struct contestant *c, const struct setup *setup) {
        int fd = open(setup->image, O_RDWR | O_CLOEXEC);

        CHECK(fd >= 0);
        c->size = setup->size;
        c->memory = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(c->memory != MAP_FAILED);
        (void) close(fd);
}

static void fetch(struct contestant *c, const struct access *access) {
        bench_touch(c, access);
}

static void stop(struct contestant *c) {
        (void) munmap(c->memory, c->size);
}

const struct contestant contestant_mmap = { .name = "mmap", .start = start, .fetch = fetch, .stop = stop };
