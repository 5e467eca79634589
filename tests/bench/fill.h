/* SPDX-License-Identifier: MIT */
/* The background fill and what it is compared with: a copy of the same source into the same kind of memory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "tests/bench/bench.h"

struct fill_source {
        const char *name;
        char path[96];     /* of the image */
        char address[176]; /* as --memory takes it */
        char uri[160];     /* NULL string: it is a file */
        int server;        /* pid of nbdkit; 0: none */
        int cold;          /* dropped from page cache before each run */
};

/* Fresh memory of the kind, mapped and empty. Its descriptor is closed; unmap it. */
uint8_t *fill_memory_new(uint64_t size, uint64_t backing_size);

/* Ways to copy all of a source into it, each as well as it can be done by one that may write straight into it. */
struct fill_copy {
        const char *name;
        int nbd; /* for NBD sources; else for files */
        void (*run)(const struct fill_source *source, uint8_t *memory, uint64_t size, uint64_t backing_size);
};

extern const struct fill_copy fill_copies[];
extern const unsigned n_fill_copies;
