/* SPDX-License-Identifier: MIT */
#include "broker/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "broker/source-file.h"
#include "broker/source-helper.h"
#include "common/cleanup.h"

int source_open(struct source **ret, const char *address, const struct source_context *context, char **ret_error) {
        if (strncmp(address, "file:", 5) == 0)
                return source_open_file(ret, address, address + 5, ret_error);
        if (strncmp(address, "nbd:", 4) == 0)
                return source_open_helper(ret, address, "nbd", address + 4, context, ret_error);
        if (ret_error && asprintf(ret_error, "source '%s': unknown kind; this version knows file:PATH and nbd:URI", address) < 0)
                *ret_error = NULL;
        return -EINVAL;
}

const char *source_error_text(int error) {
        switch (error) {
        case -ESTALE:
                return "the source has changed since the broker opened it (size, modification time, or what else identifies it); "
                       "its data is no longer the snapshot's";
        case -ENODATA:
                return "the source ended before its own size";
        case -ESHUTDOWN:
                return "the process that reads the source has ended";
        case -EBADMSG:
                return "the data does not match its checksum";
        case -ETIMEDOUT:
                return "the source did not answer in time";
        default:
                return strerrordesc_np(-error) ?: "unknown error";
        }
}

struct source *source_leaf(struct source *source, uint64_t offset) {
        return source->ops->leaf ? source->ops->leaf(source, offset) : source;
}

void source_watch(struct source *source, void (*on_return)(void *data), void *data) {
        source->on_return = on_return;
        source->on_return_data = data;
        for (unsigned i = 0; i < source->n_parts; i++)
                source_watch(source->parts[i], on_return, data);
}

void source_returned(struct source *source) {
        if (source->on_return)
                source->on_return(source->on_return_data);
}

void source_identify(struct source *source, const void *data, size_t length) {
        XXH128_hash_t hash = XXH3_128bits(data, length);

        source->identity[0] = hash.low64;
        source->identity[1] = hash.high64;
        source->identity[2] = source->size;
}

struct source *source_free(struct source *source) {
        if (source)
                source->ops->free(source);
        return NULL;
}

static int zero_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        *ret_data = false;
        *ret_length = length;
        return 0;
}

static ssize_t zero_read_now(struct source *source, void *buffer, uint64_t offset, size_t length) {
        return -EAGAIN; /* never asked: there is no data extent */
}

static int zero_check(struct source *source) {
        return 0;
}

static uint64_t zero_cold_mask(struct source *source, uint64_t offset, unsigned n_pages) {
        return 0;
}

static void zero_drop_behind(struct source *source, uint64_t offset, uint64_t length) {
}

static void zero_free(struct source *source) {
        free(source->name);
        free(source);
}

static int source_new(struct source **ret, const struct source_ops *ops, const char *name, uint64_t size) {
        struct source *source = malloc(sizeof *source);
        char *copy = strdup(name);

        if (!source || !copy) {
                free(source);
                free(copy);
                return -ENOMEM;
        }
        *source = (struct source) { .ops = ops, .name = copy, .fd = -1, .size = size };
        *ret = source;
        return 0;
}

int source_new_zero(struct source **ret, uint64_t size) {
        static const struct source_ops ops = {
                .scheme = "zero",
                .extent = zero_extent,
                .read_now = zero_read_now,
                .check = zero_check,
                .cold_mask = zero_cold_mask,
                .drop_behind = zero_drop_behind,
                .free = zero_free,
        };

        return source_new(ret, &ops, "zero:", size);
}

/* Which pages it had data for is not known any more. A read, which nobody makes, would fail: it has no descriptor. */
static int done_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        *ret_data = true;
        *ret_length = length;
        return 0;
}

int source_new_done(struct source **ret, const char *name, uint64_t size,
                    const uint64_t identity[SOURCE_IDENTITY_WORDS], uint64_t pages_data) {
        static const struct source_ops ops = {
                .scheme = "done",
                .extent = done_extent,
                .read_now = zero_read_now,
                .check = zero_check,
                .cold_mask = zero_cold_mask,
                .drop_behind = zero_drop_behind,
                .free = zero_free,
        };
        int r = source_new(ret, &ops, name, size);

        if (r < 0)
                return r;
        memcpy((*ret)->identity, identity, sizeof(*ret)->identity);
        (*ret)->is_done = true;
        (*ret)->pages_data = pages_data;
        return 0;
}
