/* SPDX-License-Identifier: MIT */
/* Plain copies of an image into memory: what the background fill is measured against. They may do what a broker must not:
 * have the kernel write asynchronously into the memory itself. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <libnbd.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/bench/fill.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define BLOCK (1u << 20)

uint8_t *fill_memory_new(uint64_t size, uint64_t backing_size) {
        int fd = memfd_create("bench", MFD_CLOEXEC | (backing_size > BENCH_PAGE ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
        uint8_t *memory;

        CHECK(fd >= 0 && ftruncate(fd, (off_t) size) == 0);
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(memory != MAP_FAILED);
        (void) close(fd);
        return memory;
}

/* One call for many pages rather than a fault for each inside the read. */
static void back(uint8_t *at, uint64_t length, uint64_t backing_size) {
        uint64_t begin = align_down((uint64_t) (uintptr_t) at, backing_size);

        if ((uint64_t) (uintptr_t) at == begin)
                CHECK(madvise(at, max_u64(length, backing_size), MADV_POPULATE_WRITE) == 0);
}

/* ---- files ---- */

static void copy_pread(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size) {
        int fd = open(source->path, O_RDONLY | O_CLOEXEC);

        CHECK(fd >= 0);
        (void) posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        for (uint64_t at = 0; at < size;) {
                ssize_t n;

                if (at % BLOCK == 0)
                        back(memory + at, BLOCK, backing_size);
                n = pread(fd, memory + at, min_u64(BLOCK - at % BLOCK, size - at), (off_t) at);
                CHECK(n > 0);
                at += (uint64_t) n;
        }
        (void) close(fd);
}

#define URING_DEPTH 8u

static void copy_uring(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size,
                       int flags) {
        int fd = open(source->path, O_RDONLY | O_CLOEXEC | flags);
        uint64_t next = 0, done = 0;
        struct io_uring ring;
        unsigned busy = 0;

        CHECK(fd >= 0 && size % BLOCK == 0 && io_uring_queue_init(URING_DEPTH, &ring, 0) == 0);
        (void) posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        while (done < size) {
                struct io_uring_cqe *cqe;

                for (; busy < URING_DEPTH && next < size; busy++, next += BLOCK) {
                        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

                        CHECK(sqe);
                        back(memory + next, BLOCK, backing_size);
                        io_uring_prep_read(sqe, fd, memory + next, BLOCK, next);
                        io_uring_sqe_set_data64(sqe, next);
                }
                CHECK(io_uring_submit(&ring) >= 0 && io_uring_wait_cqe(&ring, &cqe) == 0 && cqe->res > 0);
                if ((unsigned) cqe->res < BLOCK) { /* the rest, where it was */
                        uint64_t at = io_uring_cqe_get_data64(cqe);

                        for (uint64_t have = (uint64_t) cqe->res; have < BLOCK;) {
                                ssize_t n = pread(fd, memory + at + have, BLOCK - have, (off_t) (at + have));

                                CHECK(n > 0);
                                have += (uint64_t) n;
                        }
                }
                io_uring_cqe_seen(&ring, cqe);
                busy--;
                done += BLOCK;
        }
        io_uring_queue_exit(&ring);
        (void) close(fd);
}

static void copy_buffered(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size) {
        copy_uring(source, memory, size, backing_size, 0);
}

static void copy_direct(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size) {
        copy_uring(source, memory, size, backing_size, O_DIRECT);
}

/* ---- NBD ---- */

#define NBD_BLOCK (256u << 10)
#define NBD_DEPTH 16u
#define NBD_CONNECTIONS 4u

struct stripe {
        const struct fill_source *source;
        uint8_t *memory;
        uint64_t size, backing_size;
        unsigned index, n;
};

/* Takes a failed read, too: it would leave the loop waiting. */
static int read_done(void *busy, int *error) {
        CHECK(*error == 0);
        --*(unsigned *) busy;
        return 1;
}

static void *copy_stripe(void *arg) {
        struct stripe *stripe = arg;
        struct nbd_handle *nbd = nbd_create();
        uint64_t step = (uint64_t) stripe->n * NBD_BLOCK;
        unsigned busy = 0;

        CHECK(nbd && nbd_set_pread_initialize(nbd, false) == 0 && nbd_connect_uri(nbd, stripe->source->uri) == 0);
        for (uint64_t at = (uint64_t) stripe->index * NBD_BLOCK; at < stripe->size || busy > 0;) {
                while (at < stripe->size && busy < NBD_DEPTH) {
                        back(stripe->memory + at, NBD_BLOCK, stripe->backing_size);
                        CHECK(nbd_aio_pread(nbd, stripe->memory + at, min_u64(NBD_BLOCK, stripe->size - at), at,
                                            (nbd_completion_callback) { .callback = read_done, .user_data = &busy },
                                            0) >= 0);
                        busy++;
                        at += step;
                }
                CHECK(nbd_poll(nbd, -1) >= 0);
        }
        (void) nbd_shutdown(nbd, 0);
        nbd_close(nbd);
        return NULL;
}

static void copy_nbd(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size,
                     unsigned n) {
        struct stripe stripes[NBD_CONNECTIONS];
        pthread_t threads[NBD_CONNECTIONS];

        for (unsigned i = 0; i < n; i++) {
                stripes[i] = (struct stripe) { source, memory, size, backing_size, i, n };
                CHECK(pthread_create(&threads[i], NULL, copy_stripe, &stripes[i]) == 0);
        }
        for (unsigned i = 0; i < n; i++)
                CHECK(pthread_join(threads[i], NULL) == 0);
}

static void copy_one_connection(const struct fill_source *source, uint8_t *memory, uint64_t size,
                                uint64_t backing_size) {
        copy_nbd(source, memory, size, backing_size, 1);
}

static void copy_connections(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size) {
        copy_nbd(source, memory, size, backing_size, NBD_CONNECTIONS);
}

const struct fill_copy fill_copies[] = {
        { "pread", 0, copy_pread },          { "uring", 0, copy_buffered },    { "direct", 0, copy_direct },
        { "nbd-1", 1, copy_one_connection }, { "nbd-4", 1, copy_connections },
};
const unsigned n_fill_copies = ELEMENTS(fill_copies);
