/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous requests. One holds an entry of `requests` until it is reaped and as many slots as its ranges need until
 * their outcomes have been harvested. Harvesting takes entries of the completion queue, gives their slots back and
 * counts the request down; whoever brings it to 0 sets its bit in `request_done`. Any thread may harvest.
 */
#pragma once

#include <stdbool.h>

#include "client/client.h"

/* The value of a slot's word in `async`, in that generation of the client. */
uint64_t completion_claim(const pb_client *client, unsigned slot, uint32_t generation);

/* Both pb_submit() and the harvester say that they are done with a slot; whoever is second frees it. */
void completion_leave_slot(pb_client *client, unsigned slot);

/* Returns true if a request became done. Async-signal-safe. */
bool completion_harvest(pb_client *client);

/* The same by somebody who is not going to reap: makes the descriptor readable for the one who is. The byte that
 * announced the completion may be gone. */
void completion_harvest_for_reaper(pb_client *client);

/* The broker is gone: every request that is under way ends with -ECONNRESET. */
void completion_fail_all(pb_client *client);

/* One slot's outcome. */
void completion_count_down(pb_client *client, unsigned request, int result);

/* Makes pb_get_fd() readable, with nothing on the completion socket. */
void completion_signal_leftovers(pb_client *client);
