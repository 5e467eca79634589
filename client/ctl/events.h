/* SPDX-License-Identifier: MIT */
/* What a broker announces by signals, printed as it comes. */
#pragma once

#include <systemd/sd-bus.h>

#include "client/ctl/bus.h"

struct events {
        const struct broker *broker;
        bool json;
        bool has_news; /* set by an event that changes the counters for good */
};

/* Subscribes; `events` must stay. Negative errno. */
int events_subscribe(struct events *events, sd_bus_slot **ret);
