/* SPDX-License-Identifier: MIT */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ELEMENTS(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *) (void *) ((char *) (ptr) -offsetof(type, member)))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))

static inline uint64_t min_u64(uint64_t a, uint64_t b) {
        return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b) {
        return a > b ? a : b;
}

/* `align` is a power of two. */
static inline uint64_t align_down(uint64_t value, uint64_t align) {
        return value & ~(align - 1);
}

/* The caller has bounded `value`: no overflow check. */
static inline uint64_t align_up(uint64_t value, uint64_t align) {
        return align_down(value + align - 1, align);
}

static inline bool is_aligned(uint64_t value, uint64_t align) {
        return (value & (align - 1)) == 0;
}

/* Does [offset, offset + length) lie inside [0, size)? Safe for every value. */
static inline bool range_fits(uint64_t offset, uint64_t length, uint64_t size) {
        return offset <= size && length <= size - offset;
}
