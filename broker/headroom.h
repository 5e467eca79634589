/* SPDX-License-Identifier: MIT */
/*
 * How much the broker's memory cgroup still takes. The kernel's answer to a full one is to end a process of it, which is
 * the broker if guest memory is what fills it; its successor would meet the same end. So installing asks here first, and
 * fails with a reason while there is still room for everything else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Opens the files of the cgroup that this process is in, and of those above it. Without any: no limit is known. `reserve`:
 * bytes that are left alone; 0: never asks. */
void headroom_open(uint64_t reserve);
void headroom_close(void);

/* May `bytes` more be installed? From any thread. Reads files now and then: once for some MiB. */
bool headroom_take(uint64_t bytes);
