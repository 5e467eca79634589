/* SPDX-License-Identifier: MIT */
/* Mapping what came with a handshake. Descriptors have been checked (link.h); here their content is. */
#pragma once

#include <stdint.h>

#include "client/link.h"
#include "protocol/presence.h"
#include "protocol/session-state.h"

/*
 * Maps `fd` without touching it, in a process that may have called mlockall(MCL_FUTURE) too: that fills every new
 * mapping, and filling guest memory would put zero pages where the broker's are to come. Nothing shared goes to a child.
 * NULL on failure.
 */
void *map_untouched(int fd, uint64_t size, int protection, int *ret_error);

/* The map of a memory, the state of a session: mapped to be read, and what their headers say is right. */
int map_presence(const struct link_memory *memory, uint64_t epoch, const struct pb_map_header **ret);
int map_state(const struct link *link, const struct pb_session_state **ret);
