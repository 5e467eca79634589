/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/ctl/map-data.h"

/* How many bins fit on the terminal. */
uint64_t map_terminal_bins(void);

/* One letter a bin; colours beside it. */
void map_terminal_print(const struct map *map, bool is_colored);
