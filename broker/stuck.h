/* SPDX-License-Identifier: MIT */
/* Who waits for what page, since when, and why: from what clients' tallies, peers and the pager's trail publish. On the
 * control thread; takes no lock. */
#pragma once

#include <stdint.h>

#include "broker/request.h"

struct broker;
struct connection;

#define STUCK_MAX 1024u

enum stuck_why {
        STUCK_QUEUED,    /* waits for its turn */
        STUCK_READING,   /* the source has been asked */
        STUCK_RETRYING,  /* a try failed, another follows */
        STUCK_POISONED,  /* given up: waits to be healed */
        STUCK_ANSWERING, /* it is here: the answer is on its way */
};

struct stuck {
        const struct connection *connection;
        enum request_class class;
        const struct memory *memory;
        uint64_t page;
        uint64_t since_ns; /* CLOCK_MONOTONIC */
        enum stuck_why why;
        unsigned tries; /* that failed */
        int error;      /* the last one's; 0: none did */
};

/* Those that have waited for at least `min_us`, of one client (NULL: of all), the longest first, at most `max` (up to
 * STUCK_MAX). Returns how many; `ret_total`: how many there are. */
unsigned stuck_collect(struct broker *broker, const struct connection *of, uint64_t min_us, struct stuck *ret, unsigned max,
                       uint64_t *ret_total);

const char *stuck_why_name(enum stuck_why why);
