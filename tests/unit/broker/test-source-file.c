/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/source.h"
#include "common/cleanup.h"
#include "tests/lib/test.h"

static struct test_image image;

static struct source *open_image(uint32_t data_ppm, uint32_t run_pages) {
        struct source *source = NULL;
        char address[160], *error = NULL;

        test_image_make(&image, &(struct test_image_spec) { .seed = 1, .n_pages = 1000, .data_ppm = data_ppm,
                                                             .run_pages = run_pages });
        (void) snprintf(address, sizeof address, "file:%s", image.path);
        cr_assert_eq(source_open(&source, address, NULL, &error), 0, "%s", error);
        return source;
}

static void close_image(struct source *source) {
        (void) source_free(source);
        test_image_unlink(&image);
}

static void check_extents(struct source *source) {
        for (uint64_t page = 0; page < 1000; page++) {
                uint64_t length = 0;
                bool data = false;

                cr_assert_eq(source->ops->extent(source, page * 4096, (1000 - page) * 4096, &data, &length), 0);
                cr_assert_eq(data, !test_image_is_hole(&image, page), "page %d", (int) page);
                cr_assert(length >= 4096 && length % 4096 == 0 && length <= (1000 - page) * 4096);
                for (uint64_t i = 0; i < length / 4096; i++)
                        cr_assert_eq(data, !test_image_is_hole(&image, page + i));
                /* Never longer than asked for. */
                cr_assert_eq(source->ops->extent(source, page * 4096, 4096, &data, &length), 0);
                cr_assert_eq(length, 4096);
        }
}

TEST(source_file, extents_are_those_of_the_file) {
        struct source *source = open_image(500000, 7);

        check_extents(source);
        cr_assert_eq(source->size, 1000 * 4096);
        close_image(source);
}

TEST(source_file, file_without_holes_is_one_extent) {
        struct source *source = open_image(0, 0);
        uint64_t length;
        bool data;

        cr_assert_eq(source->ops->extent(source, 0, UINT64_MAX, &data, &length), 0);
        cr_assert(data);
        cr_assert_eq(length, 1000 * 4096);
        check_extents(source);
        close_image(source);
}

TEST(source_file, file_of_one_hole_is_one_extent) {
        struct source *source = open_image(1, 1000);
        uint64_t length;
        bool data;

        cr_assert_eq(source->ops->extent(source, 4096, UINT64_MAX, &data, &length), 0);
        cr_assert(!data);
        cr_assert_eq(length, 999 * 4096);
        close_image(source);
}

TEST(source_file, hot_bytes_are_read_at_once) {
        struct source *source = open_image(0, 0);
        char buf[4 * 4096];

        cr_assert_eq(source->ops->read_now(source, buf, 40960, sizeof buf), (ssize_t) sizeof buf);
        test_image_assert(&image, 10, 4, buf);
        cr_assert_eq(source->ops->cold_mask(source, 0, 64), 0);
        cr_assert_eq(source->ops->read_now(source, buf, 1000 * 4096, 4096), -EAGAIN);
        close_image(source);
}

TEST(source_file, cold_pages_are_told_from_hot_ones) {
        struct source *source = open_image(0, 0);
        char buf[4096];

        test_image_require_cold(&image);
        cr_assert_eq(source->ops->cold_mask(source, 0, 64), ~0ull);
        cr_assert(pread(source->fd, buf, 4096, 5 * 4096) == 4096);
        cr_assert_eq(source->ops->cold_mask(source, 0, 64), ~(1ull << 5), "a read brought its neighbours along");
        cr_assert_eq(source->ops->cold_mask(source, 4 * 4096, 3), 5);
        source->ops->drop_behind(source, 5 * 4096, 4096);
        cr_assert_eq(source->ops->cold_mask(source, 1000 * 4096, 1), 0, "outside the file");
        close_image(source);
}

TEST(source_file, change_is_seen) {
        struct source *source = open_image(0, 0);
        _cleanup_close_ int fd = open(image.path, O_WRONLY | O_CLOEXEC);

        cr_assert_eq(source->ops->check(source), 0);
        cr_assert(pwrite(fd, "x", 1, 0) == 1);
        cr_assert_eq(source->ops->check(source), -ESTALE);
        close_image(source);
}

TEST(source_file, removal_and_reads_are_no_change) {
        struct source *source = open_image(0, 0);
        char buf[4096];

        cr_assert(pread(source->fd, buf, sizeof buf, 0) == sizeof buf);
        test_image_unlink(&image);
        cr_assert_eq(source->ops->check(source), 0);
        (void) source_free(source);
}

TEST(source_file, descriptor_blocks) {
        struct source *source = open_image(0, 0);

        cr_assert(!(fcntl(source->fd, F_GETFL) & O_NONBLOCK), "io_uring would read on the thread that submits");
        cr_assert(!source->may_block);
        close_image(source);
}

TEST(source, unknown_kind_is_refused_in_words) {
        struct source *source = NULL;
        char *error = NULL;

        cr_assert_eq(source_open(&source, "ftp:x", NULL, &error), -EINVAL);
        cr_assert(strstr(error, "'ftp:x'") && strstr(error, "file:PATH"));
        free(error);
        cr_assert_eq(source_open(&source, "file:/does/not/exist", NULL, NULL), -ENOENT);
        cr_assert_eq(source_free(NULL), NULL);
}

TEST(source, zeros_are_one_hole) {
        struct source *source = NULL;
        uint64_t length;
        bool data = true;

        cr_assert_eq(source_new_zero(&source, 1 << 20), 0);
        cr_assert_eq(source->ops->extent(source, 4096, 8192, &data, &length), 0);
        cr_assert(!data);
        cr_assert_eq(length, 8192);
        cr_assert_eq(source->ops->check(source), 0);
        (void) source_free(source);
}

TEST(source, errors_are_sentences) {
        cr_assert(strstr(source_error_text(-ESTALE), "changed"));
        cr_assert(strstr(source_error_text(-ENODATA), "ended"));
        cr_assert(strstr(source_error_text(-ETIMEDOUT), "in time"));
        cr_assert_str_eq(source_error_text(-EIO), "Input/output error");
        cr_assert_str_eq(source_error_text(-99999), "unknown error");
}
