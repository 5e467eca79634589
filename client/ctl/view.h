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

/* Its two halves: the question, and what the answer says. */
int view_make_call(const struct broker *broker, sd_bus_message **ret);
int view_take(sd_bus_message *reply, struct view *ret);

struct view_answer {
        struct view view;
        int r;       /* as view_try() */
        char *error; /* why it failed */
};
void view_answer_done(struct view_answer *answer);

/* Of many brokers of one bus, at once; each may take `limit_us`. */
void views_read(sd_bus *bus, const struct broker *brokers, unsigned n, uint64_t limit_us, struct view_answer *ret);

/* STATUS_OK or complained. */
int view_read(const struct broker *broker, struct view *ret);

/* One VM for programs: its properties, regions and sources. */
json_object *view_to_json(const struct view *view);
