/* SPDX-License-Identifier: MIT */
/*
 * Who may still touch a memory that can leave: every client with a session that was given it, until it says RELEASE, or
 * its process ends. A connection that breaks says nothing: the client's mappings are still there, and it may come back.
 * The ledger has them too, so that the next broker waits for the same.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/clock.h"

struct broker;
struct connection;
struct memory;

/* Of a process that cannot be watched: so long it may take to come back. */
#define HOLDER_PATIENCE_US (30 * USEC_PER_SEC)

bool holder_has(const struct connection *connection, const struct memory *memory);

/* Who holds it, in words; 0: nobody. With the userfaultfds that have it mapped. */
unsigned holders_count(const struct broker *broker, struct memory *memory, char *ret_names, size_t size);

/* What it was given has changed: before it is told, or after it has said that it has let go. */
void holder_note(struct connection *connection);

/* It hangs up: does it leave something behind? */
void holder_hang_up(struct connection *connection);

/* Nothing of it is left: its process has ended. */
void holder_drop(struct connection *connection);

/* It has resumed a session, and holds what the connection before it did. */
void holder_supersede(struct connection *connection);

/* May another client of this user be given memory? Each that hangs up without a word stays with us until its process ends. */
bool holders_have_room(const struct connection *connection, uint64_t ring_inode);

/* Those that the broker before us has left. */
int holders_restore(struct broker *broker);
