/* SPDX-License-Identifier: MIT */
#pragma once

#include "options.h"

/* Restores the guest and prints its verdict. 0 if it found all as it left it; complains and returns a negative errno
 * if it did not, or could not be asked. */
int restore(const struct options *options, uint64_t start_us);
