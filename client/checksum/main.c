/* SPDX-License-Identifier: MIT */
/* pagebroker-checksum: checksums of an image's blocks, in a file beside it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/checksum/checksum.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"

static struct pb_sums_digest *table_new(uint64_t n_blocks) {
        return n_blocks <= SIZE_MAX / sizeof(struct pb_sums_digest) ? calloc(n_blocks, sizeof(struct pb_sums_digest)) : NULL;
}

static int note_block(uint64_t block, const struct pb_sums_digest *digest, void *data) {
        struct pb_sums_digest *table = data;

        table[block] = *digest;
        return 0;
}

static int write_all(int fd, const void *data, size_t length) {
        for (size_t done = 0; done < length;) {
                ssize_t n = write(fd, (const char *) data + done, length - done);

                if (n < 0 && errno != EINTR)
                        return -errno;
                if (n > 0)
                        done += (size_t) n;
        }
        return 0;
}

/* Under another name until it is complete and on the disk: a half-written one would never be taken for a whole one, but it
 * would be in the place of the old one. */
static int write_output(const char *path, const struct pb_sums_header *header, const struct pb_sums_digest *table) {
        _cleanup_free_ char *name = NULL;
        _cleanup_close_ int fd = -1;
        int r;

        if (asprintf(&name, "%s.XXXXXX", path) < 0)
                return -ENOMEM;
        fd = mkostemp(name, O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = write_all(fd, header, sizeof *header);
        if (r == 0)
                r = write_all(fd, table, header->n_blocks * sizeof *table);
        if (r == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(name, path) < 0))
                r = -errno;
        if (r < 0)
                (void) unlink(name);
        return r;
}

static void fill_header(struct pb_sums_header *header, const struct image *image, const struct pb_sums_digest *table) {
        *header = (struct pb_sums_header) {
                .magic = PB_SUMS_MAGIC,
                .version = 1,
                .header_size = sizeof *header,
                .algorithm = PB_SUMS_XXH3_128,
                .block_size = image->block_size,
                .image_size = (uint64_t) image->st.st_size,
                .n_blocks = image->n_blocks,
                .mtime_s = image->st.st_mtim.tv_sec,
                .mtime_ns = (uint32_t) image->st.st_mtim.tv_nsec,
                .table = digest_of(table, image->n_blocks * sizeof *table),
        };
        (void) snprintf(header->image, sizeof header->image, "%s", image->path);
        header->header = digest_of(header, offsetof(struct pb_sums_header, header));
}

static int make(struct image *image, const struct options *options) {
        _cleanup_free_ struct pb_sums_digest *table = table_new(image->n_blocks);
        struct pb_sums_header header;
        int r;

        if (!table)
                return -ENOMEM;
        r = image_digest(image, note_block, table);
        if (r < 0)
                return r;
        if (!image_is_unchanged(image)) {
                complain("%s: has changed while it was read", image->path);
                return -ESTALE;
        }
        fill_header(&header, image, table);
        r = write_output(options->output, &header, table);
        if (r < 0)
                complain("%s: %s", options->output, strerror(-r));
        return r;
}

/* ---- --check ---- */

struct comparison {
        const struct pb_sums_digest *table;
        uint32_t block_size;
        uint64_t n_wrong;
};

static int compare_block(uint64_t block, const struct pb_sums_digest *digest, void *data) {
        struct comparison *comparison = data;

        if (memcmp(digest, &comparison->table[block], sizeof *digest) != 0) {
                (void) printf("block %" PRIu64 " at offset 0x%" PRIx64 " differs\n", block, block * comparison->block_size);
                comparison->n_wrong++;
        }
        return 0;
}

static int read_output(const char *path, struct pb_sums_header *header, struct pb_sums_digest **ret_table) {
        FILE *file = fopen(path, "re");
        struct pb_sums_digest digest, *table;
        const char *wrong = NULL;

        if (!file) {
                int r = -errno;

                complain("%s: %s", path, strerror(-r));
                return r;
        }
        if (fread(header, sizeof *header, 1, file) != 1 || header->magic != PB_SUMS_MAGIC)
                wrong = "not a file of checksums";
        else if (digest = digest_of(header, offsetof(struct pb_sums_header, header)),
                 memcmp(&digest, &header->header, sizeof digest) != 0)
                wrong = "damaged";
        else if (header->version != 1 || header->algorithm != PB_SUMS_XXH3_128 || header->block_size < PB_SUMS_BLOCK_MIN ||
                 header->block_size > PB_SUMS_BLOCK_MAX || header->image_size == 0)
                wrong = "of a version or an algorithm that is not known here";
        table = wrong ? NULL : table_new(header->n_blocks);
        if (!wrong && (!table || fread(table, sizeof *table, header->n_blocks, file) != header->n_blocks))
                wrong = "too short";
        else if (!wrong) {
                digest = digest_of(table, header->n_blocks * sizeof *table);
                if (memcmp(&digest, &header->table, sizeof digest) != 0)
                        wrong = "damaged";
        }
        (void) fclose(file);
        if (wrong) {
                complain("%s: %s", path, wrong);
                free(table);
                return -EINVAL;
        }
        *ret_table = table;
        return 0;
}

static int check(const struct options *options) {
        _cleanup_free_ struct pb_sums_digest *table = NULL;
        struct comparison comparison = {};
        struct pb_sums_header header = {};
        struct image image = {};
        int r = read_output(options->output, &header, &table);

        if (r == 0)
                r = image_open(&image, options->image, header.block_size);
        if (r < 0)
                return r;
        image.progress = options->progress;
        if (image.n_blocks != header.n_blocks || (uint64_t) image.st.st_size != header.image_size) {
                complain("%s: has %" PRIu64 " bytes, the checksums are of %" PRIu64, image.path, (uint64_t) image.st.st_size,
                         header.image_size);
                r = -EINVAL;
        } else {
                comparison = (struct comparison) { .table = table, .block_size = header.block_size };
                r = image_digest(&image, compare_block, &comparison);
        }
        image_close(&image);
        return r < 0 ? r : comparison.n_wrong > 0 ? -EBADMSG : 0;
}

int main(int argc, char *argv[]) {
        struct options options;
        struct image image;
        int r = options_parse(&options, argc, argv);

        if (r != 0)
                return r > 0 ? EXIT_SUCCESS : 2;
        if (options.check)
                r = check(&options);
        else {
                r = image_open(&image, options.image, options.block_size);
                if (r == 0) {
                        image.progress = options.progress;
                        r = make(&image, &options);
                        image_close(&image);
                }
        }
        if (r == -ENOMEM)
                complain("out of memory");
        options_free(&options);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
