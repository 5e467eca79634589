/* SPDX-License-Identifier: MIT */
/* How cold reads are done: io_uring, or worker threads. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct fetch;

struct reader_engine {
        const char *name;
        unsigned max_depth; /* reads that it really does at once */
        int (*open)(void **ret_state, unsigned n_reads);
        void (*close)(void *state);
        int (*get_fd)(void *state);
        int (*submit)(void *state, struct fetch *fetch); /* fetch->read, into its buffer */
        void (*flush)(void *state);
        bool (*has_answers)(void *state);
        struct fetch *(*reap)(void *state);
};

extern const struct reader_engine reader_uring;
extern const struct reader_engine reader_threads;
