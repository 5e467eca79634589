/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

struct options {
        const char *socket;
        const char *pagebroker;
        unsigned reconnect_s; /* 0: not at all */
        const char *file;
        const char *serial;
        bool readonly;
        bool uring;
        bool verbose;
};

/* 1: go on. 0: --help or --version was answered. -EINVAL: the reason was printed. */
int options_parse(struct options *ret, int argc, char **argv);
