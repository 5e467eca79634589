/* SPDX-License-Identifier: MIT */
/* Where a broker is to die, told to it through a shared file, so that one broker after the other can be told. */
#pragma once

#include <stdatomic.h>

#define KILL_ORDER_ENVIRONMENT "PB_KILL_ORDER"

struct kill_order {
        char name[32];     /* a KILL_POINT() of the broker; written while budget is 0 */
        atomic_int budget; /* so many brokers die there */
        atomic_int skip;   /* but not at the first so many times that one comes there */
};

/* Makes the file and lets every broker that is started from now on, the test's own build, know it. */
struct kill_order *kill_order_new(void);
void kill_order_free(struct kill_order *order);

void kill_order_give(struct kill_order *order, const char *name, int skip);
/* Waits until a broker has died there. */
_Bool kill_order_is_done(struct kill_order *order);

/* How often at each place, and a measure for random kills: $PB_KILLS, 1 to 25 (3; `make soak` has 20). */
unsigned kill_count(void);
