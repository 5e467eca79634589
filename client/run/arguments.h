/* SPDX-License-Identifier: MIT */
/* Placeholders in the program's arguments: where it finds guest memory. */
#pragma once

#include <stdint.h>

struct argument_memory {
        int fd; /* its number in the program */
        uint64_t size;
};

/*
 * Replaces in `text`
 *   {memoryN}       by /proc/self/fd/F, a path that opens memory N
 *   {memoryN.fd}    by F
 *   {memoryN.size}  by its size in bytes
 * and leaves every other brace alone. `ret` is malloc'ed. -ENOENT: there is no memory N; `ret_unknown` is N then.
 */
int argument_expand(const char *text, const struct argument_memory *memories, unsigned n_memories, char **ret,
                    unsigned *ret_unknown);
