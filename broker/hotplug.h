/* SPDX-License-Identifier: MIT */
/*
 * Memory that comes and goes while the VM runs. All memories are made at start, since later nothing can be opened; plugging
 * one in tells everybody, and it goes only when everybody has let go of it. On the control thread; PROTOCOL.md, "Memory that
 * comes and goes".
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/memory.h"
#include "protocol/message.h"

struct broker;
struct connection;

/* After the memories are made: what the command line, or the broker before us, says of them. */
void hotplug_begin(struct broker *broker);
/* After a restart: who held a memory holds it still. Before the system-call filter. */
int hotplug_resume(struct broker *broker);
void hotplug_end(struct broker *broker);

/* What may be given to a client, and how: NULL if not. */
bool hotplug_is_shown(const struct memory *memory, bool resuming);

/* The index, or a negative errno with the reason in `ret_text`. */
int hotplug_add(struct broker *broker, const struct pb_message_add_memory *message, const char **ret_text);
/* Answers by itself, now or later. */
void hotplug_remove(struct connection *connection, uint32_t index, uint64_t serial);
void hotplug_release(struct connection *connection, uint32_t index);
/* Of everything: it is about to hang up for good. */
void hotplug_release_all(struct connection *connection);

/* The connection hangs up: it waits for nothing any more. What it holds is its process's still, unless it has said otherwise. */
void hotplug_forget(struct connection *connection);

/* Somebody has let go of something: is there a memory that can leave now? */
void hotplug_check(struct broker *broker);
/* The pager has given the pages back. */
void hotplug_cleared(struct broker *broker, struct memory *memory, int result);
