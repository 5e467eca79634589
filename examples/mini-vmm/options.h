/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

enum command {
        COMMAND_RUN,
        COMMAND_RESTORE,
        COMMAND_ARGUMENTS,
};

struct options {
        enum command command;
        const char *snapshot;
        struct layout layout;   /* run */
        const char *pagebroker; /* restore: one of these */
        uint64_t reconnect_s; /* 0: not at all */
        bool eager;
        unsigned n_vcpus;
        unsigned n_shards;
        bool ascending;
        bool whole;
        bool fill_after_alive;
        const char *plug; /* NAME:FILE */
        bool json;
};

/* Returns 1 if there is something to do, 0 if --help was served, or complains and returns -EINVAL. */
int options_parse(struct options *ret, int argc, char *argv[]);
