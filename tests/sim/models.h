/* SPDX-License-Identifier: MIT */
/* Sources, as the simulator has them. */
#pragma once

#include "tests/sim/sim.h"

/* Near: a fast disk. Far: a server a millisecond away, by a line of 1 Gbit/s. */
static const struct sim_source sim_sources[] = {
        { .name = "near", .latency_us = 20, .bytes_per_us = 4000, .window = 32 },
        { .name = "far", .latency_us = 1000, .bytes_per_us = 100, .window = 64 },
};
#define N_SIM_SOURCES (sizeof sim_sources / sizeof sim_sources[0])
