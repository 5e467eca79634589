/* SPDX-License-Identifier: MIT */
/* The test library itself: a check that cannot fail checks nothing. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/test.h"

TEST(image, file_holds_what_the_numbers_say) {
        struct test_image image;
        struct test_image_spec spec = { .seed = 7, .n_pages = 1003, .data_ppm = 500000 };
        _cleanup_close_ int fd = -1;
        void *addr;

        test_image_make(&image, &spec);
        fd = open(image.path, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        addr = mmap(NULL, spec.n_pages * TEST_PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
        cr_assert(addr != MAP_FAILED);
        test_image_assert(&image, 0, spec.n_pages, addr);
        cr_assert(lseek(fd, 0, SEEK_HOLE) < (off_t) (spec.n_pages * TEST_PAGE), "the image has no hole");
        (void) munmap(addr, spec.n_pages * TEST_PAGE);
        test_image_unlink(&image);
}

TEST(image, one_wrong_bit_is_found) {
        struct test_image image;
        _cleanup_free_ unsigned char *buf = malloc(4 * TEST_PAGE);

        test_image_describe(&image, &(struct test_image_spec) { .seed = 1, .n_pages = 4 });
        for (unsigned i = 0; i < 4; i++)
                test_image_fill(&image, i, buf + i * TEST_PAGE);
        cr_assert_eq(test_image_compare(&image, 0, 4, buf), TEST_IMAGE_NONE);
        buf[2 * TEST_PAGE + 4095] ^= 1;
        cr_assert_eq(test_image_compare(&image, 0, 4, buf), 2);
}

TEST(image, pages_and_seeds_differ) {
        struct test_image a, b;
        unsigned char buf[TEST_PAGE];

        test_image_describe(&a, &(struct test_image_spec) { .seed = 1, .n_pages = 2 });
        test_image_describe(&b, &(struct test_image_spec) { .seed = 2, .n_pages = 2 });
        test_image_fill(&a, 0, buf);
        cr_assert(test_image_expect(&a, 0, buf));
        cr_assert(!test_image_expect(&a, 1, buf));
        cr_assert(!test_image_expect(&b, 0, buf));
}

TEST(image, data_is_counted) {
        struct test_image image;
        uint64_t n = 0;

        test_image_describe(&image, &(struct test_image_spec) { .seed = 3, .n_pages = 5001, .data_ppm = 300000 });
        for (uint64_t page = 0; page < 5001; page++)
                n += !test_image_is_hole(&image, page);
        cr_assert_eq(test_image_count_data(&image), n);
        cr_assert(n > 1000 && n < 2000);
}

TEST(descriptors, are_counted) {
        int before = test_descriptors_count(getpid());
        _cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        cr_assert(fd >= 0);
        cr_assert_eq(test_descriptors_count(getpid()), before + 1);
}

TEST(descriptors, leak_is_seen) {
        _cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        cr_assert_eq(test_descriptors_leaked(), 1);
        fd = fd_close(fd);
        cr_assert_eq(test_descriptors_leaked(), 0);
}

static int tell_uid(void *arg) {
        return geteuid() == TEST_OTHER_UID && getegid() == TEST_OTHER_UID && access("/proc/self/fd/0", F_OK) == 0 ? 42
                                                                                                                  : 0;
}

TEST(child, runs_as_another_user) {
        require_other_uid();
        cr_assert_eq(test_run_as(TEST_OTHER_UID, tell_uid, NULL), 42);
}

static int die(void *arg) {
        return raise(SIGKILL);
}

TEST(child, killed_is_told_from_exited) {
        cr_assert_eq(test_run_as((uid_t) -1, die, NULL), 128 + SIGKILL);
}

TEST(require, hugepages_are_there) {
        void *addr;

        require_hugepages(2, HUGE_2M);
        addr = mmap(NULL, 2 * HUGE_2M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE,
                    -1, 0);
        cr_assert(addr != MAP_FAILED);
        (void) munmap(addr, 2 * HUGE_2M);
}
