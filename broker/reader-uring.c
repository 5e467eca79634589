/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/fetch.h"
#include "broker/reader-engine.h"
#include "broker/source.h"
#include "common/macro.h"

/* #syscalls:broker io_uring_enter */

/* liburing 2.3 declares functions for this and does not export them. */
static int uring_register(struct io_uring *ring, unsigned opcode, const void *arg, unsigned n) {
        return syscall(SYS_io_uring_register, ring->ring_fd, opcode, arg, n) < 0 ? -errno : 0;
}

static int uring_open(void **ret_state, unsigned n_reads) {
        /* From here on this ring can read and nothing else, whatever happens to the process. */
        struct io_uring_restriction restrictions[] = {
                { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ },
                { .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_ASYNC },
        };
        struct io_uring *ring = calloc(1, sizeof *ring);
        int r;

        if (!ring)
                return -ENOMEM;
        r = io_uring_queue_init(n_reads, ring, IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP);
        if (r < 0) {
                free(ring);
                return r;
        }
        /* Reads that block are made by the kernel's workers, by default as few as four a CPU: that many silent ones would
         * stop all. Best effort: an older kernel keeps its default. */
        (void) uring_register(ring, IORING_REGISTER_IOWQ_MAX_WORKERS, (unsigned[2]) { n_reads, 0 }, 2);
        r = uring_register(ring, IORING_REGISTER_RESTRICTIONS, restrictions, ELEMENTS(restrictions));
        if (r >= 0)
                r = uring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
        if (r < 0) {
                io_uring_queue_exit(ring);
                free(ring);
                return r;
        }
        *ret_state = ring;
        return 0;
}

static void uring_close(void *state) {
        io_uring_queue_exit(state);
        free(state);
}

static int uring_get_fd(void *state) {
        return ((struct io_uring *) state)->ring_fd;
}

static int uring_submit(void *state, struct fetch *fetch) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(state);

        if (!sqe)
                return -EAGAIN;
        io_uring_prep_read(sqe, fetch->read.fd, fetch->read.buffer, fetch->read.length, fetch->read.offset);
        io_uring_sqe_set_data(sqe, fetch);
        if (fetch->source->may_block)
                sqe->flags |= IOSQE_ASYNC;
        return 0;
}

static void uring_flush(void *state) {
        /* EAGAIN, EBUSY: short of kernel memory; what was not taken stays in the queue for the next turn. */
        if (io_uring_sq_ready(state) > 0)
                (void) io_uring_submit(state);
}

static bool uring_has_answers(void *state) {
        return io_uring_cq_ready(state) > 0;
}

static struct fetch *uring_reap(void *state) {
        struct io_uring_cqe *cqe;
        struct fetch *fetch;

        if (io_uring_peek_cqe(state, &cqe) < 0)
                return NULL;
        fetch = io_uring_cqe_get_data(cqe);
        fetch->read.result = cqe->res;
        io_uring_cqe_seen(state, cqe);
        return fetch;
}

const struct reader_engine reader_uring = {
        .name = "io_uring",
        .max_depth = 1024,
        .open = uring_open,
        .close = uring_close,
        .get_fd = uring_get_fd,
        .submit = uring_submit,
        .flush = uring_flush,
        .has_answers = uring_has_answers,
        .reap = uring_reap,
};
