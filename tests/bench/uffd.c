/* SPDX-License-Identifier: MIT */
/*
 * The peer: a userfaultfd handler in a process of its own, as well as we can write one. Missing and minor faults on
 * shared memory, read from page cache straight into the memory (no bounce buffer), one CONTINUE for what was read
 * (measured here to beat COPY), all waiting faults per read(), and the same short look-out before it sleeps that
 * pagebrokerd has.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "tests/bench/bench.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define SPIN_NS 50000u

struct handler {
        int uffd;
        int image;
        uint8_t *memory;    /* the handler's mapping */
        uint64_t base;      /* address of the memory in the faulting process */
        uint64_t size;
        uint64_t window;    /* brought and mapped by a fault */
        uint8_t *present;   /* a flag for each window */
};

static void serve(struct handler *h, uint64_t address) {
        uint64_t offset = (address - h->base) / h->window * h->window;
        struct uffdio_continue cont = { .range = { .start = h->base + offset, .len = h->window } };
        struct uffdio_range wake = cont.range;

        if (!h->present[offset / h->window]) {
                /* One call that backs the pages rather than a fault for each; pointless for one. */
                if (h->window > BENCH_PAGE)
                        CHECK(madvise(h->memory + offset, h->window, MADV_POPULATE_WRITE) == 0);
                CHECK(pread(h->image, h->memory + offset, h->window, (off_t) offset) == (ssize_t) h->window);
                h->present[offset / h->window] = 1;
        }
        if (ioctl(h->uffd, UFFDIO_CONTINUE, &cont) < 0) {
                CHECK(errno == EEXIST);
                CHECK(ioctl(h->uffd, UFFDIO_WAKE, &wake) == 0);
        }
}

static void handle(struct handler *h) {
        struct uffd_msg messages[64];
        struct pollfd pollfd = { .fd = h->uffd, .events = POLLIN };

        for (;;) {
                ssize_t n = read(h->uffd, messages, sizeof messages);
                uint64_t until;

                for (ssize_t i = 0; i < n / (ssize_t) sizeof messages[0]; i++)
                        serve(h, messages[i].arg.pagefault.address);
                if (n > 0)
                        continue;
                CHECK(errno == EAGAIN);
                for (until = bench_now_ns() + SPIN_NS; bench_now_ns() < until;) {
                        n = read(h->uffd, messages, sizeof messages[0]);
                        if (n > 0)
                                break;
                        (void) sched_yield();
                }
                if (n > 0)
                        serve(h, messages[0].arg.pagefault.address);
                else
                        CHECK(poll(&pollfd, 1, -1) == 1);
        }
}

static int open_uffd(void) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;
        struct uffdio_api api = {
                .api = UFFD_API,
                .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS |
                            UFFD_FEATURE_MINOR_HUGETLBFS,
        };

        CHECK(device >= 0);
        fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        (void) close(device);
        CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
        return fd;
}

static void start(struct contestant *c, const struct setup *setup) {
        int memfd = memfd_new("bench", setup->size, setup->backing_size), uffd = open_uffd();
        struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR };

        CHECK(memfd >= 0);
        c->size = setup->size;
        if (c->window < setup->backing_size)
                c->window = setup->backing_size;
        c->memory = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
        CHECK(c->memory != MAP_FAILED);
        reg.range = (struct uffdio_range) { .start = (uintptr_t) c->memory, .len = c->size };
        CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        c->server = fork();
        CHECK(c->server >= 0);
        if (c->server == 0) {
                struct handler h = {
                        .uffd = uffd,
                        .image = open(setup->image, O_RDONLY | O_CLOEXEC),
                        .base = (uintptr_t) c->memory,
                        .size = c->size,
                        .window = c->window,
                        .present = calloc(c->size / c->window, 1),
                        .memory = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0),
                };

                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                CHECK(h.image >= 0 && h.present && h.memory != MAP_FAILED);
                bench_pin(setup->server_cpu);
                handle(&h);
        }
        (void) close(memfd);
        (void) close(uffd);
}

static void fetch(struct contestant *c, const struct access *access) {
        bench_touch(c, access);
}

static void stop(struct contestant *c) {
        (void) kill(c->server, SIGKILL);
        (void) waitpid(c->server, NULL, 0);
        (void) munmap(c->memory, c->size);
}

const struct contestant contestant_uffd_page = {
        .name = "uffd-page", .window = BENCH_PAGE, .start = start, .fetch = fetch, .stop = stop,
};

const struct contestant contestant_uffd_window = {
        .name = "uffd-64k", .window = 64 << 10, .start = start, .fetch = fetch, .stop = stop,
};
