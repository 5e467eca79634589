/* SPDX-License-Identifier: MIT */
/* Brokers that are on no bus, by their control socket: what a linked client of the role observer or vmm may do. */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

#include "client/ctl/ctl.h"
#include "client/pagebroker.h"

/* STATUS_OK or complained. */
int socket_connect(const struct ctl *ctl, uint32_t role, pb_client **ret);

/* The broker's counters, named as the bus names them. STATUS_OK or complained. */
int socket_read(pb_client *client, json_object **ret);

int socket_set_fill(const struct ctl *ctl, bool on);

/* Size 0: everything. STATUS_OK or complained. */
int socket_heal(const struct ctl *ctl, uint64_t gpa, uint64_t size, uint64_t *ret_healed);

/* Asks once: has somebody answered? 1, 0 (nobody listens), or negative: complained. */
int socket_has_broker(const struct ctl *ctl);
