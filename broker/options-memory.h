/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

struct options;

/* For options.c: --memory, and --huge, which is a value of it. */
int parse_memory(struct options *options, char *text);
int parse_backing(const char *option, const char *text, uint64_t *ret);
