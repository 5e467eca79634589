/* SPDX-License-Identifier: MIT */
/* One broker, kept alive; and the VMM whose memory it holds. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct supervisor_options {
        char **broker;        /* command line, ended by NULL */
        char *vmm;            /* for sh -c; NULL: none */
        unsigned store;       /* descriptors that are kept */
        uint64_t watchdog_us; /* 0: none */
        bool die_together;    /* the broker is killed when the supervisor dies */
};

/* Returns the exit status of the whole. */
int supervisor_run(const struct supervisor_options *options);
