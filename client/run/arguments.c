/* SPDX-License-Identifier: MIT */
#include "client/run/arguments.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

enum field {
        FIELD_PATH,
        FIELD_FD,
        FIELD_SIZE,
};

#define PREFIX "{memory"

/* Is this a placeholder? Then its length, else 0. */
static size_t parse(const char *text, unsigned *ret_memory, enum field *ret_field) {
        static const struct {
                const char *suffix;
                enum field field;
        } fields[] = { { "}", FIELD_PATH }, { ".fd}", FIELD_FD }, { ".size}", FIELD_SIZE } };
        const char *p = text;
        unsigned long n;
        char *end;

        if (strncmp(p, PREFIX, strlen(PREFIX)) != 0)
                return 0;
        p += strlen(PREFIX);
        if (*p < '0' || *p > '9')
                return 0;
        n = strtoul(p, &end, 10);
        for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
                if (strncmp(end, fields[i].suffix, strlen(fields[i].suffix)) == 0) {
                        *ret_memory = n > UINT32_MAX ? UINT32_MAX : (unsigned) n;
                        *ret_field = fields[i].field;
                        return (size_t) (end - text) + strlen(fields[i].suffix);
                }
        return 0;
}

static void write_field(FILE *out, const struct argument_memory *memory, enum field field) {
        switch (field) {
        case FIELD_PATH:
                (void) fprintf(out, "/proc/self/fd/%d", memory->fd);
                break;
        case FIELD_FD:
                (void) fprintf(out, "%d", memory->fd);
                break;
        case FIELD_SIZE:
                (void) fprintf(out, "%" PRIu64, memory->size);
                break;
        }
}

int argument_expand(const char *text, const struct argument_memory *memories, unsigned n_memories, char **ret,
                    unsigned *ret_unknown) {
        _cleanup_free_ char *expanded = NULL;
        size_t size = 0;
        bool is_known = true;
        FILE *out = open_memstream(&expanded, &size);

        if (!out)
                return -errno;
        while (*text && is_known) {
                enum field field;
                unsigned memory;
                size_t length = parse(text, &memory, &field);

                if (length == 0) {
                        (void) fputc(*text++, out);
                        continue;
                }
                if (memory < n_memories)
                        write_field(out, &memories[memory], field);
                else {
                        *ret_unknown = memory;
                        is_known = false;
                }
                text += length;
        }
        if (fclose(out) != 0)
                return -ENOMEM;
        if (!is_known)
                return -ENOENT;
        *ret = PTR_TAKE(expanded);
        return 0;
}
