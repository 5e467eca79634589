/* SPDX-License-Identifier: MIT */
/*
 * Source images whose every byte is known: the content of a page is a function of the seed and the page's number, so
 * that a page in the wrong place, a stale one and a half-copied one are all seen.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define TEST_PAGE 4096u
#define TEST_IMAGE_NONE UINT64_MAX

struct test_image_spec {
        uint64_t seed;
        uint64_t n_pages;
        uint32_t data_ppm;  /* how many of a million runs hold data; 0: all. The rest are holes. */
        uint32_t run_pages; /* pages of a run; default 16 */
        const char *dir;    /* where the file goes; default $TMPDIR or /tmp. /dev/shm: a source without RWF_NOWAIT */
};

struct test_image {
        struct test_image_spec spec;
        char path[128];
};

/* Makes the file. Holes are holes of the file system. */
void test_image_make(struct test_image *ret, const struct test_image_spec *spec);

/* Only the numbers: for checks without a file (or with somebody else's). */
void test_image_describe(struct test_image *ret, const struct test_image_spec *spec);

void test_image_unlink(struct test_image *image);

/* Drops the file from page cache, so that the next reads are cold. On tmpfs nothing is dropped: where a test depends on it,
 * the second one, which skips the test then. */
void test_image_make_cold(const struct test_image *image);
void test_image_require_cold(struct test_image *image);

/* Pages of [first, first + n) that page cache holds. */
uint64_t test_image_count_cached(const struct test_image *image, uint64_t first, uint64_t n);

bool test_image_is_hole(const struct test_image *image, uint64_t page);

/* How many pages hold data. */
uint64_t test_image_count_data(const struct test_image *image);

/* The page's content into `buf` (TEST_PAGE bytes); zeros for a hole. */
void test_image_fill(const struct test_image *image, uint64_t page, void *buf);

/* Compares every byte of one page. */
bool test_image_expect(const struct test_image *image, uint64_t page, const void *buf);

/* Compares [first, first + n) with memory at `addr`, where page `first` lies. Returns the first page that differs or
 * TEST_IMAGE_NONE. */
uint64_t test_image_compare(const struct test_image *image, uint64_t first, uint64_t n, const void *addr);

/* The same, and fails the test with the offset of the first wrong byte. */
void test_image_assert(const struct test_image *image, uint64_t first, uint64_t n, const void *addr);
