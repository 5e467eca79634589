/* SPDX-License-Identifier: MIT */
/*
 * The file of checksums beside an image: pagebroker-checksum writes it, the broker reads it. pagebroker-checksums(5) is
 * the contract. All numbers are little-endian; digests are in the canonical form of xxHash (big-endian).
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#define PB_SUMS_MAGIC 0x31304d5553424250ull /* "PBBSUM01" */
#define PB_SUMS_HEADER_SIZE 4096u
#define PB_SUMS_XXH3_128 1u

/* A block is never read in parts: it must fit into one read, and more than one page is worth its 16 bytes. */
#define PB_SUMS_BLOCK_MIN 4096u
#define PB_SUMS_BLOCK_MAX (256u << 10)

struct pb_sums_digest {
        uint8_t bytes[16];
};

struct pb_sums_header {
        uint64_t magic;
        uint32_t version;     /* 1 */
        uint32_t header_size; /* PB_SUMS_HEADER_SIZE: where the table begins */
        uint32_t algorithm;   /* PB_SUMS_XXH3_128 */
        uint32_t block_size;  /* bytes, a power of two */
        uint64_t image_size;  /* bytes, a multiple of 4096 */
        uint64_t n_blocks;    /* image_size / block_size, rounded up: the last one may be short */
        int64_t mtime_s;      /* of the image when it was read */
        uint32_t mtime_ns;
        uint32_t padding;     /* 0 */
        struct pb_sums_digest table; /* of the table's bytes */
        char image[256];      /* its path then, for people; ends with 0 */
        uint8_t zero[3752];
        struct pb_sums_digest header; /* of all bytes before this field */
};

static_assert(sizeof(struct pb_sums_header) == PB_SUMS_HEADER_SIZE, "contract");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the numbers are not converted");
