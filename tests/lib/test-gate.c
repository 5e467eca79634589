/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"

struct fixture {
        struct test_image image;
        struct test_gate gate;
        int fd;
};

static void fixture_start(struct fixture *f) {
        require_fuse();
        test_image_make(&f->image, &(struct test_image_spec) { .seed = 5, .n_pages = 256, .data_ppm = 700000 });
        test_gate_start(&f->gate, &f->image);
        f->fd = open(f->gate.path, O_RDONLY | O_CLOEXEC);
        cr_assert(f->fd >= 0, "%s: %s", f->gate.path, strerror(errno));
}

static void fixture_stop(struct fixture *f) {
        f->fd = fd_close(f->fd);
        test_gate_stop(&f->gate);
        test_image_unlink(&f->image);
}

static bool page_is_right(struct fixture *f, uint64_t page) {
        char buf[TEST_PAGE];

        return pread(f->fd, buf, sizeof buf, (off_t) (page * TEST_PAGE)) == TEST_PAGE &&
               test_image_expect(&f->image, page, buf);
}

TEST(gate, shows_the_image) {
        struct fixture f;

        fixture_start(&f);
        for (uint64_t page = 0; page < 256; page++)
                cr_assert(page_is_right(&f, page));
        cr_assert_eq(test_gate_count(&f.gate, 0, UINT64_MAX), 256);
        cr_assert_eq(test_gate_count(&f.gate, 10 * TEST_PAGE, 2 * TEST_PAGE), 2);
        fixture_stop(&f);
}

struct reader {
        struct fixture *f;
        uint64_t page;
        bool right;
};

static void *read_one(void *arg) {
        struct reader *reader = arg;

        reader->right = page_is_right(reader->f, reader->page);
        return NULL;
}

TEST(gate, held_read_waits_for_its_release) {
        struct fixture f;
        struct reader reader = { &f, 3, false };
        pthread_t thread;

        fixture_start(&f);
        test_gate_hold(&f.gate, 3 * TEST_PAGE, 1);
        cr_assert(pthread_create(&thread, NULL, read_one, &reader) == 0);
        test_gate_wait_held(&f.gate, 3 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert(page_is_right(&f, 4), "a read beside waits too");
        cr_assert_eq(test_gate_count_held(&f.gate, 0, UINT64_MAX), 1);
        test_gate_release(&f.gate, 3 * TEST_PAGE, TEST_PAGE);
        cr_assert(pthread_join(thread, NULL) == 0);
        cr_assert(reader.right);
        test_gate_wait_answered(&f.gate, 3 * TEST_PAGE, 1, 1);
        fixture_stop(&f);
}

TEST(gate, stop_answers_what_is_held) {
        struct fixture f;
        struct reader reader = { &f, 3, true };
        pthread_t thread;

        fixture_start(&f);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        cr_assert(pthread_create(&thread, NULL, read_one, &reader) == 0);
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        fixture_stop(&f);
        cr_assert(pthread_join(thread, NULL) == 0);
        cr_assert(!reader.right);
}

TEST(gate, failing_read_fails_so_often) {
        struct fixture f;
        char buf[TEST_PAGE];

        fixture_start(&f);
        test_gate_fail(&f.gate, 0, TEST_PAGE, EIO, (struct test_gate_turns) { .skip = 1, .times = 2 });
        cr_assert(page_is_right(&f, 0));
        for (unsigned i = 0; i < 2; i++) {
                errno = 0;
                cr_assert(pread(f.fd, buf, sizeof buf, 0) < 0 && errno == EIO);
        }
        cr_assert(page_is_right(&f, 0));
        fixture_stop(&f);
}

TEST(gate, cut_read_is_short) {
        struct fixture f;
        char buf[2 * TEST_PAGE];

        fixture_start(&f);
        test_gate_cut(&f.gate, 0, TEST_PAGE, 100, TEST_GATE_ONCE);
        cr_assert_eq(pread(f.fd, buf, sizeof buf, 0), 100);
        cr_assert_eq(pread(f.fd, buf, sizeof buf, 0), (ssize_t) sizeof buf);
        fixture_stop(&f);
}

TEST(gate, lie_changes_its_range_from_the_second_answer_on) {
        struct fixture f;
        unsigned char first[TEST_PAGE], second[TEST_PAGE];

        fixture_start(&f);
        test_gate_lie(&f.gate, 10, 5, (struct test_gate_turns) { .skip = 1 });
        cr_assert_eq(pread(f.fd, first, sizeof first, 0), TEST_PAGE);
        cr_assert_eq(pread(f.fd, second, sizeof second, 0), TEST_PAGE);
        cr_assert(test_image_expect(&f.image, 0, first));
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(first[i] ^ second[i], i >= 10 && i < 15 ? 0xff : 0);
        fixture_stop(&f);
}

TEST(gate, identity_changes_when_told) {
        struct fixture f;
        struct stat before, after;

        fixture_start(&f);
        cr_assert(fstat(f.fd, &before) == 0);
        test_gate_touch(&f.gate);
        test_gate_resize(&f.gate, 4096);
        cr_assert(fstat(f.fd, &after) == 0);
        cr_assert_eq(after.st_mtime, before.st_mtime + 1);
        cr_assert_eq(after.st_size, 4096);
        fixture_stop(&f);
}

TEST(gate, holes_are_shown) {
        struct fixture f;
        uint64_t page = 0;

        fixture_start(&f);
        while (!test_image_is_hole(&f.image, page))
                page++;
        cr_assert_eq(lseek(f.fd, 0, SEEK_HOLE), (off_t) (page * TEST_PAGE));
        fixture_stop(&f);
}
