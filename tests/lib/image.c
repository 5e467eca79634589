/* SPDX-License-Identifier: MIT */
#include "tests/lib/image.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

#define RUN_PAGES_DEFAULT 16
#define WRITE_PAGES 256

/* splitmix64: one step. */
static uint64_t mix(uint64_t x) {
        x += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
}

void test_image_describe(struct test_image *ret, const struct test_image_spec *spec) {
        *ret = (struct test_image) { .spec = *spec };
        if (!ret->spec.run_pages)
                ret->spec.run_pages = RUN_PAGES_DEFAULT;
        if (!ret->spec.data_ppm)
                ret->spec.data_ppm = 1000000;
}

bool test_image_is_hole(const struct test_image *image, uint64_t page) {
        uint64_t run = page / image->spec.run_pages;

        return mix(mix(image->spec.seed) ^ run) % 1000000 >= image->spec.data_ppm;
}

uint64_t test_image_count_data(const struct test_image *image) {
        uint64_t n = 0;

        for (uint64_t page = 0; page < image->spec.n_pages; page += image->spec.run_pages)
                if (!test_image_is_hole(image, page))
                        n += page + image->spec.run_pages <= image->spec.n_pages ? image->spec.run_pages
                                                                                 : image->spec.n_pages - page;
        return n;
}

void test_image_fill(const struct test_image *image, uint64_t page, void *buf) {
        uint64_t *words = buf, key = mix(image->spec.seed * 0x100000001b3 + page);

        if (test_image_is_hole(image, page)) {
                memset(buf, 0, TEST_PAGE);
                return;
        }
        /* The first word names the page: useful in a debugger. It is never 0. */
        words[0] = page + 1;
        for (unsigned i = 1; i < TEST_PAGE / 8; i++)
                words[i] = mix(key + i);
}

bool test_image_expect(const struct test_image *image, uint64_t page, const void *buf) {
        uint64_t want[TEST_PAGE / 8];

        test_image_fill(image, page, want);
        return memcmp(want, buf, TEST_PAGE) == 0;
}

uint64_t test_image_compare(const struct test_image *image, uint64_t first, uint64_t n, const void *addr) {
        for (uint64_t i = 0; i < n; i++)
                if (!test_image_expect(image, first + i, (const char *) addr + i * TEST_PAGE))
                        return first + i;
        return TEST_IMAGE_NONE;
}

void test_image_assert(const struct test_image *image, uint64_t first, uint64_t n, const void *addr) {
        uint64_t page = test_image_compare(image, first, n, addr);
        unsigned char want[TEST_PAGE];
        const unsigned char *have;
        unsigned i = 0;

        if (page == TEST_IMAGE_NONE)
                return;
        test_image_fill(image, page, want);
        have = (const unsigned char *) addr + (page - first) * TEST_PAGE;
        while (i < TEST_PAGE - 1 && have[i] == want[i])
                i++;
        cr_assert_fail("page %llu (%s) differs from byte %u on: 0x%02x instead of 0x%02x", (unsigned long long) page,
                       test_image_is_hole(image, page) ? "a hole" : "data", i, have[i], want[i]);
}

/* Writes the data of [first, first + n), all in one run. */
static void write_run(const struct test_image *image, int fd, uint64_t first, uint64_t n) {
        _cleanup_free_ char *buf = malloc(WRITE_PAGES * TEST_PAGE);

        cr_assert(buf != NULL);
        while (n > 0) {
                uint64_t now = n < WRITE_PAGES ? n : WRITE_PAGES;
                ssize_t size = (ssize_t) (now * TEST_PAGE);

                for (uint64_t i = 0; i < now; i++)
                        test_image_fill(image, first + i, buf + i * TEST_PAGE);
                cr_assert(pwrite(fd, buf, (size_t) size, (off_t) (first * TEST_PAGE)) == size, "writing %s: %s",
                          image->path, strerror(errno));
                first += now;
                n -= now;
        }
}

void test_image_make(struct test_image *ret, const struct test_image_spec *spec) {
        _cleanup_close_ int fd = -1;
        uint64_t page = 0, end;

        static time_t made;
        /* Long ago, and each at another time: where the kernel's clock for files moves every 10 ms, a test's own change just
         * afterwards would leave the time as it is. */
        const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1000000000 + getpid() * 64 + made++ } };

        test_image_describe(ret, spec);
        (void) snprintf(ret->path, sizeof ret->path, "%s/image-XXXXXX", spec->dir ?: getenv("TMPDIR") ?: "/tmp");
        fd = mkostemp(ret->path, O_CLOEXEC);
        cr_assert(fd >= 0, "%s: %s", ret->path, strerror(errno));
        cr_assert(fchmod(fd, 0644) == 0 && ftruncate(fd, (off_t) (spec->n_pages * TEST_PAGE)) == 0);
        while (page < spec->n_pages) {
                for (end = page; end < spec->n_pages && !test_image_is_hole(ret, end);)
                        end += ret->spec.run_pages;
                if (end > spec->n_pages)
                        end = spec->n_pages;
                if (end > page)
                        write_run(ret, fd, page, end - page);
                page = end + ret->spec.run_pages;
        }
        cr_assert(futimens(fd, times) == 0, "%s: %s", ret->path, strerror(errno));
}

void test_image_unlink(struct test_image *image) {
        if (image->path[0])
                (void) unlink(image->path);
        image->path[0] = 0;
}

uint64_t test_image_count_cached(const struct test_image *image, uint64_t first, uint64_t n) {
        _cleanup_close_ int fd = open(image->path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ unsigned char *resident = malloc(n);
        uint64_t count = 0;
        void *addr;

        cr_assert(fd >= 0 && resident);
        addr = mmap(NULL, n * TEST_PAGE, PROT_READ, MAP_SHARED, fd, (off_t) (first * TEST_PAGE));
        cr_assert(addr != MAP_FAILED && mincore(addr, n * TEST_PAGE, resident) == 0);
        for (uint64_t i = 0; i < n; i++)
                count += resident[i] & 1;
        (void) munmap(addr, n * TEST_PAGE);
        return count;
}

void test_image_require_cold(struct test_image *image) {
        uint64_t n = image->spec.n_pages;

        /* Pages that somebody looks at just now are not dropped. */
        for (unsigned i = 0; i < 10; i++) {
                test_image_make_cold(image);
                if (test_image_count_cached(image, 0, n) == 0)
                        return;
        }
        test_image_unlink(image);
        cr_skip_test("files of this file system cannot be dropped from page cache");
}

void test_image_make_cold(const struct test_image *image) {
        _cleanup_close_ int fd = open(image->path, O_RDONLY | O_CLOEXEC);

        cr_assert(fd >= 0);
        cr_assert(fsync(fd) == 0);
        cr_assert(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
}
