/* SPDX-License-Identifier: MIT */
#include "broker/checksums.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "broker/memory.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "protocol/checksums.h"

struct checksums {
        uint64_t block_size, image_size, n_blocks;
        struct pb_sums_digest *table;
        struct pb_sums_digest zero, zero_last; /* of a block of zeros; of the last block, if it is one */
};

static struct pb_sums_digest digest_of(const void *data, size_t length) {
        XXH128_canonical_t canonical;
        struct pb_sums_digest digest;

        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
        memcpy(&digest, &canonical, sizeof digest);
        return digest;
}

static bool is_same(const struct pb_sums_digest *a, const struct pb_sums_digest *b) {
        return memcmp(a, b, sizeof *a) == 0;
}

/* Bytes of a block: the last one may be short. */
static uint64_t block_length(const struct checksums *checksums, uint64_t block) {
        return min_u64(checksums->block_size, checksums->image_size - block * checksums->block_size);
}

static int fail(char **ret_error, int error, const char *path, const char *what) {
        if (ret_error && asprintf(ret_error, "checksums '%s': %s", path, what) < 0)
                *ret_error = NULL;
        return error;
}

static int read_all(int fd, void *buffer, size_t length) {
        for (size_t done = 0; done < length;) {
                ssize_t n = read(fd, (char *) buffer + done, length - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -ENODATA;
                done += (size_t) n;
        }
        return 0;
}

/* NULL: it is one, and fits. */
static const char *check_header(const struct pb_sums_header *header, uint64_t file_size, const struct source *source,
                                uint64_t source_offset) {
        const struct pb_sums_digest digest = digest_of(header, offsetof(struct pb_sums_header, header));

        if (header->magic != PB_SUMS_MAGIC)
                return "not a file of pagebroker-checksum";
        if (header->version != 1 || header->header_size != sizeof *header || header->algorithm != PB_SUMS_XXH3_128)
                return "of a version or an algorithm that this broker does not know";
        if (!is_same(&digest, &header->header))
                return "damaged (its header does not match its own checksum)";
        if (header->block_size < PB_SUMS_BLOCK_MIN || header->block_size > PB_SUMS_BLOCK_MAX ||
            header->block_size & (header->block_size - 1) || !is_aligned(header->image_size, PB_PAGE_BYTES) ||
            header->image_size == 0 || header->n_blocks != (header->image_size - 1) / header->block_size + 1)
                return "its numbers contradict each other";
        if (header->n_blocks > (UINT64_MAX - sizeof *header) / sizeof(struct pb_sums_digest) ||
            file_size != sizeof *header + header->n_blocks * sizeof(struct pb_sums_digest))
                return "damaged (its size does not fit its header)";
        if (header->image_size != source->size)
                return "made for an image of another size than the source has";
        if (!is_aligned(source_offset, header->block_size))
                return "source-offset is not a multiple of its block size; make it with a smaller --block-size";
        return NULL;
}

static int checksums_read(struct checksums *checksums, int fd, const struct pb_sums_header *header) {
        const size_t size = header->n_blocks * sizeof *checksums->table;
        const struct pb_sums_digest *table;
        static const uint8_t zeros[PB_SUMS_BLOCK_MAX];
        struct pb_sums_digest digest;
        int r;

        checksums->block_size = header->block_size;
        checksums->image_size = header->image_size;
        checksums->n_blocks = header->n_blocks;
        table = checksums->table = malloc(size);
        if (!table)
                return -ENOMEM;
        r = read_all(fd, checksums->table, size);
        if (r < 0)
                return r;
        digest = digest_of(table, size);
        checksums->zero = digest_of(zeros, checksums->block_size);
        checksums->zero_last = digest_of(zeros, block_length(checksums, checksums->n_blocks - 1));
        return is_same(&digest, &header->table) ? 0 : -EBADMSG;
}

int checksums_open(struct checksums **ret, const char *path, const struct source *source, uint64_t source_offset,
                   char **ret_error) {
        /* For a FIFO's sake. */
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct checksums *checksums;
        struct pb_sums_header header;
        const char *wrong;
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fail(ret_error, -errno, path, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return fail(ret_error, -EINVAL, path, "not a regular file");
        if (source->ops->leaf)
                return fail(ret_error, -EINVAL, path, "an image of several layers cannot have checksums: make one image of them");
        /* A block is read again for each of its pages that is still absent, and must be whole then. */
        if (source->wants_installed)
                return fail(ret_error, -EINVAL, path, "a source whose pages are released once they have come cannot have checksums");
        r = read_all(fd, &header, sizeof header);
        if (r < 0)
                return fail(ret_error, r, path, r == -ENODATA ? "too short" : strerror(-r));
        wrong = check_header(&header, (uint64_t) st.st_size, source, source_offset);
        if (wrong)
                return fail(ret_error, -EINVAL, path, wrong);
        checksums = calloc(1, sizeof *checksums);
        if (!checksums)
                return -ENOMEM;
        r = checksums_read(checksums, fd, &header);
        if (r < 0) {
                (void) checksums_free(checksums);
                return fail(ret_error, r, path, r == -EBADMSG ? "damaged (its table does not match its own checksum)" : strerror(-r));
        }
        *ret = checksums;
        return 0;
}

struct checksums *checksums_free(struct checksums *checksums) {
        if (checksums)
                free(checksums->table);
        free(checksums);
        return NULL;
}

/* ---- pages and blocks: a slice is 256 KiB, and begins at a whole block ---- */

static_assert(SLICE_PAGES * PB_PAGE_BYTES >= PB_SUMS_BLOCK_MAX, "a block lies in one slice");

static uint64_t slice_offset(const struct memory *memory, uint64_t slice) {
        return memory->source_offset + slice * SLICE_PAGES * PB_PAGE_BYTES;
}

uint64_t checksums_block(const struct memory *memory, uint64_t slice, uint64_t mask) {
        const struct checksums *checksums = memory->checksums;
        unsigned n = (unsigned) (checksums->block_size / PB_PAGE_BYTES), first = (unsigned) __builtin_ctzll(mask) / n * n;
        uint64_t end = (checksums->image_size - slice_offset(memory, slice)) / PB_PAGE_BYTES;

        return slice_mask(first, min_u64(first + n, end) - 1);
}

uint64_t checksums_widen(const struct memory *memory, uint64_t slice, uint64_t mask) {
        uint64_t wide = 0;

        while (mask & ~wide)
                wide |= checksums_block(memory, slice, mask & ~wide);
        return wide;
}

static uint64_t block_number(const struct memory *memory, uint64_t slice, uint64_t block) {
        return (slice_offset(memory, slice) + (unsigned) __builtin_ctzll(block) * PB_PAGE_BYTES) /
               memory->checksums->block_size;
}

static bool number_is_zero(const struct checksums *checksums, uint64_t number) {
        return is_same(&checksums->table[number],
                       number == checksums->n_blocks - 1 ? &checksums->zero_last : &checksums->zero);
}

bool checksums_is_zero(const struct memory *memory, uint64_t slice, uint64_t block) {
        return number_is_zero(memory->checksums, block_number(memory, slice, block));
}

bool checksums_match(const struct memory *memory, uint64_t slice, uint64_t block, const void *data) {
        uint64_t number = block_number(memory, slice, block);
        struct pb_sums_digest digest = digest_of(data, block_length(memory->checksums, number));

        return is_same(&digest, &memory->checksums->table[number]);
}

uint64_t checksums_count_data(const struct memory *memory) {
        const struct checksums *checksums = memory->checksums;
        uint64_t pages = 0, end = memory->source_offset + memory->size;

        for (uint64_t at = memory->source_offset; at < end; at += checksums->block_size)
                if (!number_is_zero(checksums, at / checksums->block_size))
                        pages += min_u64(checksums->block_size, end - at) / PB_PAGE_BYTES;
        return pages;
}
