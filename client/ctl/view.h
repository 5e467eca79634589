/* SPDX-License-Identifier: MIT */
/* One broker with all its objects, read in one call, as JSON. */
#pragma once

#include <json-c/json.h>

#include "client/ctl/bus.h"

struct view {
        json_object *vm;      /* properties of the VM; "latency" by class */
        json_object *regions; /* arrays, ascending by index or id */
        json_object *sources;
        json_object *clients;
        uint64_t taken_at_us; /* CLOCK_MONOTONIC */
};

void view_done(struct view *view);
#define _cleanup_view_ _cleanup_(view_done)

/* As broker_call(): 0, or a negative errno with *ret_error set. */
int view_try(const struct broker *broker, struct view *ret, sd_bus_error *ret_error);

/* STATUS_OK or complained. */
int view_read(const struct broker *broker, struct view *ret);

/* One VM for programs: its properties, regions and sources. */
json_object *view_to_json(const struct view *view);
