/* SPDX-License-Identifier: MIT */
#include "broker/options-value.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/options.h"
#include "broker/order.h"
#include "broker/slice.h"
#include "common/clock.h"
#include "protocol/presence.h"

/* The line of the configuration file that is being looked at; number 0: the command line is. */
static struct {
        const char *path;
        int number;
} place;

void complain_about_line(const char *path, int number) {
        place.path = path;
        place.number = number;
}

int complain(const char *format, ...) {
        va_list args;

        (void) fputs("pagebrokerd: ", stderr);
        if (place.number)
                (void) fprintf(stderr, "%s:%d: ", place.path, place.number);
        va_start(args, format);
        (void) vfprintf(stderr, format, args);
        va_end(args);
        (void) fputc('\n', stderr);
        return -EINVAL;
}

int options_parse_size(const char *text, uint64_t *ret) {
        static const char units[] = "KMGT";
        unsigned long long value;
        const char *unit;
        char *end;

        if (!isdigit((unsigned char) *text))
                return -EINVAL;
        errno = 0;
        value = strtoull(text, &end, 0);
        if (errno)
                return -ERANGE;
        if (*end) {
                unit = strchr(units, toupper((unsigned char) *end));
                if (!unit || end[1])
                        return -EINVAL;
                for (const char *u = units; u <= unit; u++)
                        if (__builtin_mul_overflow(value, 1024, &value))
                                return -ERANGE;
        }
        *ret = value;
        return 0;
}

int parse_size_of(const char *option, const char *key, const char *text, uint64_t *ret) {
        int r = options_parse_size(text, ret);

        if (r < 0 && !key)
                return complain("--%s: '%s': not a size; give bytes, or a number with K, M, G or T", option, text);
        if (r < 0)
                return complain("--%s: %s=%s: not a size; give bytes, or a number with K, M, G or T", option, key, text);
        return 0;
}

int parse_name(const char *option, const char *text, char ret[PB_NAME_SIZE]) {
        size_t n = strlen(text);

        if (n == 0 || n >= PB_NAME_SIZE)
                return complain("--%s: name '%s': must have 1 to %u characters", option, text, PB_NAME_SIZE - 1);
        for (size_t i = 0; i < n; i++)
                if (!isalnum((unsigned char) text[i]) && !strchr("._-", text[i]))
                        return complain("--%s: name '%s': letters, digits, '.', '_' and '-' only", option, text);
        memcpy(ret, text, n + 1);
        return 0;
}

char *next_item(char **rest) {
        char *start = *rest, *out, *in;

        if (!start || !*start)
                return NULL;
        for (in = out = start; *in; in++) {
                if (*in == ',' && in[1] == ',')
                        in++;
                else if (*in == ',')
                        break;
                *out++ = *in;
        }
        *rest = *in ? in + 1 : in;
        *out = 0;
        return start;
}

int parse_items(const char *option, char *rest, option_item *take, void *data) {
        char *item;
        int r = 0;

        while (r >= 0 && (item = next_item(&rest))) {
                char *equals = strchr(item, '=');

                if (!equals)
                        return complain("--%s: '%s': expected KEY=VALUE", option, item);
                *equals = 0;
                r = take(data, item, equals + 1);
        }
        return r;
}

int parse_text(char **where, const char *text) {
        free(*where);
        *where = strdup(text);
        return *where ? 0 : -ENOMEM;
}

int parse_choice(const char *option, const char *text, const char *const names[], unsigned n, unsigned *ret) {
        char known[128] = "";
        size_t at = 0;

        for (unsigned i = 0; i < n; i++) {
                if (strcmp(names[i], text) == 0) {
                        *ret = i;
                        return 0;
                }
                at += (size_t) snprintf(known + at, sizeof known - at, "%s%s",
                                        i == 0      ? ""
                                        : i + 1 < n ? ", "
                                                    : " or ",
                                        names[i]);
                assert(at < sizeof known);
        }
        return complain("--%s: '%s': %s", option, text, known);
}

int parse_switch(const char *option, const char *text, bool *ret) {
        *ret = strcmp(text, "on") == 0;
        if (!*ret && strcmp(text, "off") != 0)
                return complain("--%s: '%s': on or off", option, text);
        return 0;
}

int parse_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret) {
        char *end;

        errno = 0;
        *ret = strtoull(text, &end, 10);
        if (errno || *end || !isdigit((unsigned char) *text) || *ret < min || *ret > max)
                return complain("--%s: '%s': a number from %llu to %llu", option, text, (unsigned long long) min,
                                (unsigned long long) max);
        return 0;
}

int parse_seconds(const char *option, const char *text, uint64_t *ret_us) {
        char *end;
        double seconds = strtod(text, &end);

        if (*end || end == text || !(seconds >= 0.001 && seconds <= 86400))
                return complain("--%s: '%s': seconds, from 0.001 to 86400", option, text);
        *ret_us = (uint64_t) (seconds * (double) USEC_PER_SEC);
        return 0;
}

int parse_fault_around(const char *text, uint64_t *ret) {
        int r = parse_size_of("fault-around", NULL, text, ret);

        if (r < 0)
                return r;
        if (*ret < PB_PAGE_BYTES || *ret > SLICE_PAGES * PB_PAGE_BYTES || *ret & (*ret - 1))
                return complain("--fault-around: '%s': a power of two from 4K to 256K", text);
        return 0;
}

int parse_read_around(const char *text, unsigned *ret) {
        uint64_t size;
        int r = parse_size_of("read-around", NULL, text, &size);

        if (r < 0)
                return r;
        if (size < PB_PAGE_BYTES || size > ORDER_AROUND_MAX * PB_PAGE_BYTES)
                return complain("--read-around: '%s': from 4K (nothing) to 4M", text);
        *ret = (unsigned) (size / PB_PAGE_BYTES);
        return 0;
}
