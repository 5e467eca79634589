/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/pagebroker.h"
#include "machine.h"

struct report {
        const struct machine *machine;
        uint64_t n_pages;  /* that each vCPU looked at */
        uint64_t start_us; /* all CLOCK_MONOTONIC */
        uint64_t alive_us;
        bool lazy;             /* what follows is known */
        struct pb_stats alive; /* when the first vCPU was */
        struct pb_stats done;
};

/* Returns the number of mismatches. */
uint64_t report_print(const struct report *report, bool json);
