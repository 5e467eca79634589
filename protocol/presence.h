/* SPDX-License-Identifier: MIT */
/*
 * The presence map: one memfd per memory, written by the broker alone (F_SEAL_FUTURE_WRITE), mapped read-only by
 * everybody else. PROTOCOL.md, section "Presence map", is the contract.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PB_MAP_MAGIC 0x0031303050414d50ull /* "PMAP001\0" */
#define PB_MAP_HEADER_SIZE 4096u
#define PB_PAGE_BITS 12
#define PB_PAGE_BYTES (1ull << PB_PAGE_BITS)

/* Largest memory: 64 TiB. Keeps every page number and every offset far from overflow. */
#define PB_MEMORY_SIZE_MAX (1ull << 46)

struct pb_map_header {
        uint64_t magic;
        uint32_t version;        /* 1 */
        uint32_t header_size;    /* PB_MAP_HEADER_SIZE */
        uint64_t compat;         /* features that a reader may ignore */
        uint64_t incompat;       /* features that a reader must know; else -EPROTONOSUPPORT */
        uint64_t epoch;          /* one life of the broker; never 0 */
        uint64_t n_pages;        /* pages of 4 KiB in this memory */
        uint64_t backing_size;   /* bytes of a backing page: 4096, 2 MiB, 1 GiB */
        uint64_t present_offset; /* of the present bitmap in this file, bytes; page-aligned */
        uint64_t poison_offset;  /* of the poison bitmap, bytes; page-aligned */
        uint64_t map_size;       /* of this file, bytes */
        uint8_t padding0[48];    /* zero */
        uint32_t complete;       /* 1: every bit is set; atomic, order_complete_*() */
        uint8_t padding1[60];    /* zero */
};

static_assert(sizeof(struct pb_map_header) == 192, "contract");
static_assert(offsetof(struct pb_map_header, epoch) == 32, "contract");
static_assert(offsetof(struct pb_map_header, present_offset) == 56, "contract");
static_assert(offsetof(struct pb_map_header, map_size) == 72, "contract");
static_assert(offsetof(struct pb_map_header, complete) == 128, "contract: a cache line of its own");
static_assert(sizeof(struct pb_map_header) <= PB_MAP_HEADER_SIZE, "contract");

/* A bitmap of `n_pages` bits: 32-bit words, page n is bit n % 32 of word n / 32, rounded up to whole pages. */
static inline uint64_t presence_bitmap_size(uint64_t n_pages) {
        uint64_t bytes = (n_pages + 31) / 32 * 4;

        return (bytes + PB_PAGE_BYTES - 1) & ~(PB_PAGE_BYTES - 1);
}

static inline uint64_t presence_map_size(uint64_t n_pages) {
        return PB_MAP_HEADER_SIZE + 2 * presence_bitmap_size(n_pages);
}

static inline uint64_t presence_word(uint64_t page) {
        return page / 32;
}

/* The mask of pages [first, last] inside the word of `first`; both lie in the same word. */
static inline uint32_t presence_mask(uint64_t first, uint64_t last) {
        return (~(uint32_t) 0 << (first % 32)) & (~(uint32_t) 0 >> (31 - last % 32));
}
