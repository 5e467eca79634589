/* SPDX-License-Identifier: MIT */
/* How far the walker is; in a file that it and the test have mapped. */
#pragma once

#include <stdatomic.h>

#define WALK_MARK 0x5a /* every byte of each page whose number WALK_MARK_EVERY divides */
#define WALK_MARK_EVERY 5

struct walk {
        atomic_uint pages;
        atomic_uint until; /* it stops there and waits */
};
