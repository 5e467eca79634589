/* SPDX-License-Identifier: MIT */
/* pagebroker-checksum: what its files share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "protocol/checksums.h"

struct options {
        const char *image;
        const char *output; /* the file of checksums: written, or with `check` read */
        uint32_t block_size;
        bool check;
        bool progress;
};

/* Returns -EINVAL when it has said what is wrong, 1 when it has printed what was asked for. */
int options_parse(struct options *options, int argc, char *argv[]);
void options_free(struct options *options);

/* An image that is being read. */
struct image {
        const char *path;
        int fd;
        struct stat st;
        uint32_t block_size;
        uint64_t n_blocks;
        bool progress;
};

/* Prints what is wrong. */
int image_open(struct image *ret, const char *path, uint32_t block_size);
void image_close(struct image *image);

struct pb_sums_digest digest_of(const void *data, size_t length);

/* Reads it all, holes without touching them, and calls `visit` for each block. Ends at the first result that is not 0. */
int image_digest(struct image *image, int (*visit)(uint64_t block, const struct pb_sums_digest *digest, void *data),
                 void *data);

/* Is it still what it was when it was opened? */
bool image_is_unchanged(const struct image *image);

/* To standard error, after the program's name. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
