/* SPDX-License-Identifier: MIT */
/* Numbers in words, and tables. The texts are returned by value: text_size(n).s lives until the end of the statement. */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/macro.h"

struct text {
        char s[200];
};

/* Bytes: "4.0 KiB", "1.5 GiB", "17 bytes". */
struct text text_size(uint64_t bytes);

/* Microseconds: "350 us", "1.2 ms", "12.3 s", "3 min 20 s", "2 h 5 min". */
struct text text_duration(uint64_t us);

/* "87.5 %": never 100 before it is all, never 0 when there is some. */
struct text text_percent(uint64_t part, uint64_t whole);

/* What other programs chose (names of clients, paths), without what a terminal would take for a command. */
struct text text_safe(const char *s);

/* "64M", "0x1000", "4096": bytes, with the suffixes K, M, G, T (powers of 1024). False if it is none. */
bool text_parse_size(const char *s, uint64_t *ret);

bool text_parse_seconds(const char *s, double min, double *ret);

/* For "%" PRIu64 " %s%s". */
#define COUNTED(n, word) (n), (word), (n) == 1 ? "" : "s"
#define COUNTED_FORMAT "%" PRIu64 " %s%s"

/* ---- tables: columns as wide as what is in them ---- */

#define TABLE_COLUMNS_MAX 12

struct table {
        const char *const *headers; /* one begins with '>': that column is aligned to the right */
        unsigned n_columns;
        char **cells; /* row by row */
        unsigned n_cells;
};

#define TABLE(...)                                                              \
        {                                                                       \
                .headers = (const char *const[]) { __VA_ARGS__ },               \
                .n_columns = ELEMENTS(((const char *const[]) { __VA_ARGS__ })), \
        }

void table_add(struct table *table, const char *format, ...) PRINTF_LIKE(2, 3);
void table_print(const struct table *table);
void table_done(struct table *table);
