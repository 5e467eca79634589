/* SPDX-License-Identifier: MIT */
/* Memory that somebody touched without asking, and the ways in that only asking covers. docs/ACCESS.md names these. */
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/integration/basic/support.h"

#define N_PAGES 1024u

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct fixture {
        struct test_broker broker;
        pb_client *client;
        struct pb_region region;
        char *memory;
};

/* Half of the pages are holes. */
static void fixture_start(struct fixture *f) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 17, .n_pages = N_PAGES, .data_ppm = 500000 });
        TEST_BROKER_START(&f->broker, TEST_MEMORY("ram0", &image), "--fill=off");
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
        f->region = get_region(f->client, 0);
        f->memory = f->region.addr;
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_image_unlink(&image);
}

/* Its bytes are nobody's: neither the snapshot's nor asked for. */
TEST(unasked, writes_to_absent_pages_are_overwritten_when_these_are_wanted) {
        struct fixture f;

        fixture_start(&f);
        memset(f.memory, 0x5a, N_PAGES * TEST_PAGE);
        cr_assert(ensure_is_right(f.client, images, 0, N_PAGES * TEST_PAGE));
        fixture_stop(&f);
}

TEST(unasked, writes_to_absent_pages_are_zeros_after_an_overwrite) {
        struct fixture f;

        fixture_start(&f);
        memset(f.memory, 0x5a, N_PAGES * TEST_PAGE);
        test_ensure(f.client, 0, N_PAGES * TEST_PAGE, PB_OVERWRITE);
        cr_assert(is_zero(f.memory, N_PAGES * TEST_PAGE));
        fixture_stop(&f);
}

TEST(unasked, pages_that_were_populated_are_fetched_when_they_are_wanted) {
        struct fixture f;

        fixture_start(&f);
        cr_assert_eq(madvise(f.memory, N_PAGES * TEST_PAGE / 2, MADV_POPULATE_WRITE), 0);
        if (mlock(f.memory + N_PAGES * TEST_PAGE / 2, N_PAGES * TEST_PAGE / 2) < 0) /* RLIMIT_MEMLOCK */
                cr_assert_eq(madvise(f.memory, N_PAGES * TEST_PAGE, MADV_POPULATE_WRITE), 0);
        cr_assert(is_zero(f.memory, N_PAGES * TEST_PAGE), "absent pages are zeros to who does not ask");
        cr_assert_eq(get_stats(f.client).pages_present, 0);
        cr_assert(ensure_is_right(f.client, images, 0, N_PAGES * TEST_PAGE));
        fixture_stop(&f);
}

/* ---- by descriptor ---- */

static bool file_is_right(int fd, uint64_t first, uint64_t n) {
        char page[TEST_PAGE];

        for (uint64_t i = first; i < first + n; i++)
                if (pread(fd, page, sizeof page, (off_t) (i * TEST_PAGE)) != sizeof page ||
                    test_image_compare(&image, i, 1, page) != TEST_IMAGE_NONE)
                        return false;
        return true;
}

TEST(descriptor, reads_see_what_was_asked_for) {
        struct fixture f;
        char page[TEST_PAGE];
        uint64_t data = 0;

        fixture_start(&f);
        while (test_image_is_hole(&image, data))
                data++;
        cr_assert_eq(pread(f.region.fd, page, sizeof page, (off_t) (data * TEST_PAGE)), (ssize_t) sizeof page);
        cr_assert(is_zero(page, sizeof page), "nothing stops who does not ask");
        test_ensure(f.client, 0, N_PAGES * TEST_PAGE, PB_READ);
        cr_assert(file_is_right(f.region.fd, 0, N_PAGES));
        fixture_stop(&f);
}

TEST(descriptor, writes_stay_where_they_were_made) {
        char byte = 'w', expected[TEST_PAGE];
        struct fixture f;

        fixture_start(&f);
        test_ensure(f.client, 5 * TEST_PAGE, TEST_PAGE, PB_WRITE);
        memcpy(expected, f.memory + 5 * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(pwrite(f.region.fd, &byte, 1, 5 * TEST_PAGE + 100), 1);
        expected[100] = byte;
        test_ensure(f.client, 0, N_PAGES * TEST_PAGE, PB_READ);
        cr_assert_arr_eq(f.memory + 5 * TEST_PAGE, expected, TEST_PAGE);
        fixture_stop(&f);
}

/* ---- pins ---- */

/* Registered once, used for long: all of it is asked for before. */
TEST(pinned, fixed_buffers_of_io_uring_hold_what_was_asked_for) {
        const uint64_t first = 64, n = 128;
        struct io_uring_cqe *cqe;
        struct io_uring_sqe *sqe;
        struct io_uring ring;
        struct fixture f;
        struct iovec iov;
        int pipe_fds[2];
        char *copy;

        if (io_uring_queue_init(4, &ring, 0) < 0)
                cr_skip_test("io_uring is not to be had here");
        fixture_start(&f);
        copy = malloc(n * TEST_PAGE);
        cr_assert(copy && pipe2(pipe_fds, O_CLOEXEC) == 0);
        test_ensure(f.client, first * TEST_PAGE, n * TEST_PAGE, PB_WRITE);
        iov = (struct iovec) { .iov_base = f.memory + first * TEST_PAGE, .iov_len = n * TEST_PAGE };
        cr_assert_eq(io_uring_register_buffers(&ring, &iov, 1), 0);
        /* What arrives beside and after it takes nothing from under the pins. */
        test_ensure(f.client, 0, N_PAGES * TEST_PAGE, PB_READ);
        for (uint64_t i = 0; i < n; i++) {
                sqe = io_uring_get_sqe(&ring);
                io_uring_prep_write_fixed(sqe, pipe_fds[1], f.memory + (first + i) * TEST_PAGE, TEST_PAGE, 0, 0);
                cr_assert_eq(io_uring_submit(&ring), 1);
                cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
                cr_assert_eq(cqe->res, (int) TEST_PAGE);
                io_uring_cqe_seen(&ring, cqe);
                cr_assert_eq(read(pipe_fds[0], copy + i * TEST_PAGE, TEST_PAGE), (ssize_t) TEST_PAGE);
        }
        test_image_assert(&image, first, n, copy);
        /* And the kernel's writes into them are the guest's. */
        memset(copy, 0x77, TEST_PAGE);
        cr_assert_eq(write(pipe_fds[1], copy, TEST_PAGE), (ssize_t) TEST_PAGE);
        sqe = io_uring_get_sqe(&ring);
        io_uring_prep_read_fixed(sqe, pipe_fds[0], f.memory + first * TEST_PAGE, TEST_PAGE, 0, 0);
        cr_assert_eq(io_uring_submit(&ring), 1);
        cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
        cr_assert_eq(cqe->res, (int) TEST_PAGE);
        io_uring_cqe_seen(&ring, cqe);
        memset(copy + TEST_PAGE, 0, TEST_PAGE);
        cr_assert_eq(pread(f.region.fd, copy + TEST_PAGE, TEST_PAGE, (off_t) (first * TEST_PAGE)), (ssize_t) TEST_PAGE);
        cr_assert_arr_eq(copy, copy + TEST_PAGE, TEST_PAGE);
        io_uring_queue_exit(&ring);
        (void) close(pipe_fds[0]);
        (void) close(pipe_fds[1]);
        free(copy);
        fixture_stop(&f);
}
