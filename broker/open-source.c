/* SPDX-License-Identifier: MIT */
#include "broker/open-source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/checksums.h"
#include "broker/options.h"
#include "broker/source.h"
#include "broker/source-layers.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/macro.h"
#include "protocol/presence.h"

int open_source(const struct options *options, unsigned i, uint64_t *ret_size, struct source **ret) {
        const struct option_memory *option = &options->memories[i];
        uint64_t backing = option->backing_size ?: options->backing_size;
        _cleanup_free_ char *error = NULL;
        int r;

        *ret_size = option->size;
        if (!option->source)
                r = source_new_zero(ret, option->size);
        else
                r = source_open(ret, option->source,
                                &(struct source_context) { .vm = options->name,
                                                           .user = options->user,
                                                           .seccomp = options->seccomp },
                                &error);
        if (r == 0 && option->n_layers > 0)
                r = source_open_layers(ret, PTR_TAKE(*ret), option->layers, option->n_layers, &error);
        if (r < 0) {
                log_error("--memory=%s: %s", option->name, error ?: strerror(-r));
                return r;
        }
        if (option->source) {
                uint64_t have = (*ret)->size > option->source_offset ? (*ret)->size - option->source_offset : 0;

                /* An image with something behind it (a migration stream) is fine when it is said where the image ends. */
                if ((*ret)->odd_size && (*ret_size == 0 || have < *ret_size)) {
                        log_error("--memory=%s: the size of %s is not a multiple of 4096 bytes: not a raw memory image; size= says "
                                  "how much of it is one", option->name, option->source);
                        return -EINVAL;
                }
                if (*ret_size == 0)
                        *ret_size = have;
                if (have == 0) {
                        log_error("--memory=%s: source %s ends before source-offset %llu", option->name, option->source,
                                  (unsigned long long) option->source_offset);
                        return -EINVAL;
                }
                if (have < *ret_size) {
                        log_error("--memory=%s: source %s is too short: %llu bytes from offset %llu on, %llu are needed; "
                                  "extend it (truncate -s) if the rest is zeros",
                                  option->name, option->source, (unsigned long long) have,
                                  (unsigned long long) option->source_offset, (unsigned long long) *ret_size);
                        return -EINVAL;
                }
        }
        if (!is_aligned(*ret_size, backing) || *ret_size > PB_MEMORY_SIZE_MAX) {
                log_error("--memory=%s: size %llu is not a multiple of its page size %llu, or more than %llu", option->name,
                          (unsigned long long) *ret_size, (unsigned long long) backing,
                          (unsigned long long) PB_MEMORY_SIZE_MAX);
                return -EINVAL;
        }
        return 0;
}

int open_checksums(const struct options *options, unsigned i, const struct source *source, struct checksums **ret) {
        const struct option_memory *option = &options->memories[i];
        _cleanup_free_ char *error = NULL;
        int r;

        if (!option->checksums)
                return 0;
        r = checksums_open(ret, option->checksums, source, option->source_offset, &error);
        if (r < 0)
                log_error("--memory=%s: %s", option->name, error ?: strerror(-r));
        return r;
}
