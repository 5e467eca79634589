/* SPDX-License-Identifier: MIT */
/* Filling slots with the pieces of a call: 10 in each, and so many slots as it takes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"
#include "client/piece.h"

struct batch {
        uint16_t *slots;
        unsigned max;
        unsigned n;
};

/* Claims and fills slots until the iterator ends (0), the batch is full (1) or no slot is free (-EAGAIN). `slot` is one
 * that has been claimed already, or -1. */
int batch_fill(struct batch *batch, pb_client *client, struct piece_iterator *pieces, enum pb_slot_op op,
               unsigned flags, int slot);

/* Gives all slots back: what is not decided becomes a zombie. */
void batch_abandon(struct batch *batch, pb_client *client);

/* Gives slots back that have never been pushed. */
void batch_release(struct batch *batch, pb_client *client);

/* Asks for all pieces and waits for the outcomes, in so many rounds as the free slots allow. `cursor` as in struct
 * wait. */
int batch_ask_and_wait(pb_client *client, struct piece_iterator *pieces, enum pb_slot_op op, struct cursor *cursor,
                       uint64_t deadline_us);
