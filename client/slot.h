/* SPDX-License-Identifier: MIT */
/*
 * Request slots: claim, fill, push, outcome, give back. PROTOCOL.md, "Session ring".
 *
 * A slot is claimed by setting its bit in `busy`. Then it belongs to one thread, until that releases it or abandons it
 * (nobody waits any more, but the broker may not be done with it: a zombie), or to the request that it is part of.
 * Everything here is async-signal-safe: no lock, no allocation, no cancellation point.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"

/* Slot number, or -EAGAIN: all are in use. */
int slot_claim(pb_client *client);

/* Writes the request into the claimed slot. The broker does not look at it before the push. */
void slot_fill(pb_client *client, unsigned slot, enum pb_slot_op op, unsigned flags,
               const struct pb_slot_range *ranges, unsigned n_ranges);

/* The request in a filled slot is one from here on; before, a ready bit points at nothing. */
void slot_commit(pb_client *client, unsigned slot);

/* Hands filled slots to the broker, with at most one doorbell for all. */
void slots_push(pb_client *client, const uint16_t *slots, unsigned n);

/* The same for slots that have been committed and whose outcome belongs to a request: whoever resumes pushes them
 * again. */
void slots_push_async(pb_client *client, const uint16_t *slots, unsigned n);

/* Pushes again what only a broker before this one was asked for. Returns true if there was anything. */
bool slots_follow(pb_client *client, const uint16_t *slots, unsigned n);

/* The doorbell, whether it is asked for or not. */
void slots_ring(pb_client *client);

/* A slice has passed: points the broker at the slots again that it has not taken, and rings in any case. */
void slots_push_again(pb_client *client, const uint16_t *slots, unsigned n);

/* -EINPROGRESS while it is not decided, else what the broker said: 0 or a negative errno. */
int slot_outcome(const pb_client *client, unsigned slot);

/* The same of an outcome that was loaded before. */
int slot_judge(const pb_client *client, unsigned slot, uint64_t outcome);

/* The outcome is final (or the slot was never pushed). */
void slot_release(pb_client *client, unsigned slot);

/* Nobody waits for the outcome. The slot is released when it is final, at the latest when slots run out. */
void slot_abandon(pb_client *client, unsigned slot);

/* Bit operations on the private bitmaps; true if the bit was set before. */
bool bitmap_set(uint64_t *bitmap, unsigned bit);
bool bitmap_clear(uint64_t *bitmap, unsigned bit);

/* Sets the first clear bit and returns its number, or -EAGAIN. */
int bitmap_claim(uint64_t *bitmap);
