/* SPDX-License-Identifier: MIT */
/* Starting programs. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "store.h"

struct child_options {
        char *const *argv;
        const char *notify;          /* for $NOTIFY_SOCKET; NULL: none */
        uint64_t watchdog_us;        /* for $WATCHDOG_USEC; 0: none */
        const struct store *store;   /* passed as $LISTEN_FDS; NULL: none */
        int death_signal;            /* when we die; 0: none */
};

/* Returns its pid, or a negative errno. */
pid_t child_start(const struct child_options *options);
