/* SPDX-License-Identifier: MIT */
#include "client/ctl/text.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

#define SECONDS_MAX 86400.0

struct text text_size(uint64_t bytes) {
        static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        double value = (double) bytes / 1024;
        struct text text;
        size_t unit = 0;

        if (bytes < 1024) {
                (void) snprintf(text.s, sizeof text.s, COUNTED_FORMAT, COUNTED(bytes, "byte"));
                return text;
        }
        while (value >= 1024 && unit + 1 < ELEMENTS(units)) {
                value /= 1024;
                unit++;
        }
        (void) snprintf(text.s, sizeof text.s, "%.1f %s", value, units[unit]);
        return text;
}

struct text text_duration(uint64_t us) {
        uint64_t seconds = us / USEC_PER_SEC;
        struct text text;

        if (us < USEC_PER_MSEC)
                (void) snprintf(text.s, sizeof text.s, "%" PRIu64 " us", us);
        else if (us < USEC_PER_SEC)
                (void) snprintf(text.s, sizeof text.s, "%.1f ms", (double) us / 1e3);
        else if (seconds < 60)
                (void) snprintf(text.s, sizeof text.s, "%.1f s", (double) us / 1e6);
        else if (seconds < 3600)
                (void) snprintf(text.s, sizeof text.s, "%" PRIu64 " min %" PRIu64 " s", seconds / 60, seconds % 60);
        else
                (void) snprintf(text.s, sizeof text.s, "%" PRIu64 " h %" PRIu64 " min", seconds / 3600,
                                seconds / 60 % 60);
        return text;
}

struct text text_percent(uint64_t part, uint64_t whole) {
        double value = whole > 0 ? 100.0 * (double) part / (double) whole : 100.0;
        struct text text;

        if (part < whole)
                value = fmin(value, 99.9);
        if (part > 0)
                value = fmax(value, 0.1);
        (void) snprintf(text.s, sizeof text.s, "%.1f %%", value);
        return text;
}

struct text text_safe(const char *s) {
        struct text text;
        size_t n = 0;

        for (; s && *s && n + 1 < sizeof text.s; s++)
                text.s[n++] = isprint((unsigned char) *s) && (unsigned char) *s < 0x80 ? *s : '?';
        text.s[n] = 0;
        return text;
}

bool text_parse_size(const char *s, uint64_t *ret) {
        static const char suffixes[] = "KMGT";
        const char *suffix;
        unsigned long long value;
        unsigned shift = 0;
        char *end;

        if (!isdigit((unsigned char) *s))
                return false;
        errno = 0;
        value = strtoull(s, &end, 0);
        if (errno || end == s)
                return false;
        suffix = *end ? strchr(suffixes, *end) : NULL;
        if (suffix) {
                shift = 10 * (unsigned) (suffix - suffixes + 1);
                end++;
        }
        if (*end || value > UINT64_MAX >> shift)
                return false;
        *ret = (uint64_t) value << shift;
        return true;
}

bool text_parse_seconds(const char *s, double min, double *ret) {
        char *end;
        double value = strtod(s, &end);

        if (end == s || *end || !(value >= min && value <= SECONDS_MAX))
                return false;
        *ret = value;
        return true;
}

void table_add(struct table *table, const char *format, ...) {
        char *cell = NULL;
        char **cells;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&cell, format, ap) < 0)
                abort();
        va_end(ap);
        cells = reallocarray(table->cells, table->n_cells + 1, sizeof *cells);
        if (!cells)
                abort();
        table->cells = cells;
        cells[table->n_cells++] = cell;
}

static void print_cell(const struct table *table, unsigned column, const char *text, const int *widths) {
        bool is_last = column + 1 == table->n_columns;

        if (table->headers[column][0] == '>')
                (void) printf("%*s%s", widths[column], text, is_last ? "\n" : "  ");
        else if (is_last)
                (void) printf("%s\n", text);
        else
                (void) printf("%-*s  ", widths[column], text);
}

void table_print(const struct table *table) {
        int widths[TABLE_COLUMNS_MAX] = {};

        assert(table->n_columns > 0);
        for (unsigned i = 0; i < table->n_columns; i++)
                widths[i] = (int) strlen(table->headers[i]) - (table->headers[i][0] == '>');
        for (unsigned i = 0; i < table->n_cells; i++) {
                int width = (int) strlen(table->cells[i]), *max = &widths[i % table->n_columns];

                *max = width > *max ? width : *max;
        }
        for (unsigned i = 0; i < table->n_columns; i++)
                print_cell(table, i, table->headers[i] + (table->headers[i][0] == '>'), widths);
        for (unsigned i = 0; i < table->n_cells; i++)
                print_cell(table, i % table->n_columns, table->cells[i], widths);
}

void table_done(struct table *table) {
        for (unsigned i = 0; i < table->n_cells; i++)
                free(table->cells[i]);
        free(table->cells);
        table->cells = NULL;
        table->n_cells = 0;
}
