/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "client/checksum/checksum.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/macro.h"

struct pb_sums_digest digest_of(const void *data, size_t length) {
        XXH128_canonical_t canonical;
        struct pb_sums_digest digest;

        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
        memcpy(&digest, &canonical, sizeof digest);
        return digest;
}

int image_open(struct image *ret, const char *path, uint32_t block_size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0) {
                int r = -errno;

                complain("%s: %s", path, strerror(errno));
                return r;
        }
        if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % 4096 != 0) {
                complain("%s: not a raw image: a regular file of a multiple of 4096 bytes", path);
                return -EINVAL;
        }
        *ret = (struct image) {
                .path = path,
                .st = st,
                .block_size = block_size,
                .n_blocks = ((uint64_t) st.st_size - 1) / block_size + 1,
        };
        ret->fd = fd_take(&fd);
        (void) posix_fadvise(ret->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        return 0;
}

void image_close(struct image *image) {
        image->fd = fd_close(image->fd);
}

bool image_is_unchanged(const struct image *image) {
        struct stat st;

        return fstat(image->fd, &st) == 0 && st.st_size == image->st.st_size &&
               st.st_mtim.tv_sec == image->st.st_mtim.tv_sec && st.st_mtim.tv_nsec == image->st.st_mtim.tv_nsec;
}

static int read_block(const struct image *image, uint64_t offset, char *buffer, size_t length) {
        for (size_t done = 0; done < length;) {
                ssize_t n = pread(image->fd, buffer + done, length - done, (off_t) (offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        int r = n < 0 ? -errno : -ENODATA;

                        complain("%s: at offset %" PRIu64 ": %s", image->path, offset + done,
                                 n < 0 ? strerror(errno) : "the file has become shorter");
                        return r;
                }
                done += (size_t) n;
        }
        return 0;
}

/* Where the next data is, from `offset` on; the size if there is none. What cannot be told is data. */
static uint64_t next_data(const struct image *image, uint64_t offset) {
        off_t at = lseek(image->fd, (off_t) offset, SEEK_DATA);

        if (at < 0)
                return errno == ENXIO ? (uint64_t) image->st.st_size : offset;
        return (uint64_t) at;
}

static void show_progress(const struct image *image, uint64_t done, uint64_t begin_us, uint64_t *next_us) {
        uint64_t now_us = clock_now_us(), size = (uint64_t) image->st.st_size;
        double seconds;

        if (!image->progress || (now_us < *next_us && done < size))
                return;
        *next_us = now_us + USEC_PER_SEC / 2;
        seconds = (double) max_u64(now_us - begin_us, 1) / 1e6;
        (void) fprintf(stderr, "\r%s: %3.0f %% of %.1f GiB, %.2f GiB/s%s", image->path,
                       100.0 * (double) done / (double) size, (double) size / (1 << 30),
                       (double) done / (1 << 30) / seconds, done == size ? "\n" : "");
}

int image_digest(struct image *image, int (*visit)(uint64_t block, const struct pb_sums_digest *digest, void *data),
                 void *data) {
        _cleanup_free_ char *buffer = calloc(1, image->block_size), *zeros = calloc(1, image->block_size);
        uint64_t size = (uint64_t) image->st.st_size, data_at = 0, begin_us = clock_now_us(), next_us = 0;
        struct pb_sums_digest zero, digest;
        int r = 0;

        if (!buffer || !zeros)
                return -ENOMEM;
        zero = digest_of(zeros, image->block_size);
        for (uint64_t block = 0; block < image->n_blocks && r == 0; block++) {
                uint64_t offset = block * image->block_size, length = min_u64(image->block_size, size - offset);

                if (data_at < offset + length)
                        data_at = next_data(image, offset);
                if (data_at >= offset + length)
                        digest = length == image->block_size ? zero : digest_of(zeros, length);
                else {
                        r = read_block(image, offset, buffer, length);
                        digest = digest_of(buffer, length);
                }
                if (r == 0)
                        r = visit(block, &digest, data);
                show_progress(image, offset + length, begin_us, &next_us);
        }
        return r;
}
