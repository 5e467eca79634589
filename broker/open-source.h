/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

struct checksums;
struct options;
struct source;

/* Opens the source of memory `i`, with its layers, and sizes the memory. Prints what is wrong. */
int open_source(const struct options *options, unsigned i, uint64_t *ret_size, struct source **ret);

/* Its checksums, if it is to have some. */
int open_checksums(const struct options *options, unsigned i, const struct source *source, struct checksums **ret);
