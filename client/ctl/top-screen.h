/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

#include "client/ctl/view.h"

enum top_order {
        TOP_BY_FAULTS, /* a second; then in all */
        TOP_BY_WAITING,
        TOP_BY_ID,
        TOP_ORDERS,
};

struct top {
        struct view now, before; /* `before` may be empty: no rates yet */
        const char *trouble;     /* why `now` is old; NULL */
        const char *name;        /* of the VM */
        enum top_order order;
        double interval_s;
};

/* Draws all of it; ncurses sends what changed. */
void top_draw(const struct top *top);
