/* SPDX-License-Identifier: MIT */
#include "client/batch.h"

#include <errno.h>

#include "client/slot.h"
#include "client/wait.h"
#include "common/macro.h"

/* Slots of one round of a waiting call: 640 ranges. On the stack, which may be a signal handler's. */
#define ROUND_SLOTS 64u

static unsigned gather(struct piece_iterator *pieces, struct pb_slot_range *ranges) {
        unsigned n = 0;

        while (n < PB_SLOT_RANGES && piece_next(pieces, &ranges[n]))
                n++;
        return n;
}

int batch_fill(struct batch *batch, pb_client *client, struct piece_iterator *pieces, enum pb_slot_op op,
               unsigned flags, int slot) {
        while (batch->n < batch->max) {
                struct pb_slot_range ranges[PB_SLOT_RANGES];
                unsigned n;

                if (slot < 0)
                        slot = slot_claim(client);
                if (slot < 0)
                        return slot;
                n = gather(pieces, ranges);
                if (n == 0) {
                        slot_release(client, (unsigned) slot);
                        return 0;
                }
                slot_fill(client, (unsigned) slot, op, flags, ranges, n);
                batch->slots[batch->n++] = (uint16_t) slot;
                slot = -1;
                if (n < PB_SLOT_RANGES)
                        return 0;
        }
        return 1;
}

void batch_abandon(struct batch *batch, pb_client *client) {
        for (unsigned i = 0; i < batch->n; i++)
                slot_abandon(client, batch->slots[i]);
        batch->n = 0;
}

void batch_release(struct batch *batch, pb_client *client) {
        for (unsigned i = 0; i < batch->n; i++)
                slot_release(client, batch->slots[i]);
        batch->n = 0;
}

/* One round: what fits is pushed with one doorbell, then one wait. Returns 1 if there is more to ask for. */
static int ask_round(pb_client *client, struct piece_iterator *pieces, enum pb_slot_op op, struct wait *wait) {
        uint16_t slots[ROUND_SLOTS];
        struct batch batch = { .slots = slots, .max = ELEMENTS(slots) };
        int more, r;

        more = batch_fill(&batch, client, pieces, op, 0, -1);
        if (more == -EAGAIN && batch.n == 0) {
                int slot = wait_for_slot(wait);

                if (slot < 0)
                        return slot == -EALREADY ? 0 : slot;
                more = batch_fill(&batch, client, pieces, op, 0, slot);
        }
        if (batch.n == 0)
                return 0;
        wait->slots = slots;
        wait->n_slots = batch.n;
        slots_push(client, slots, batch.n);
        r = wait_for_outcomes(wait);
        batch_abandon(&batch, client);
        wait->n_slots = 0;
        return r < 0 ? r : more != 0;
}

int batch_ask_and_wait(pb_client *client, struct piece_iterator *pieces, enum pb_slot_op op, struct cursor *cursor,
                       uint64_t deadline_us) {
        struct wait wait = { .client = client, .cursor = cursor, .deadline_us = deadline_us };
        int r;

        if (client_is_dead(client))
                return -ECONNRESET;
        do
                r = ask_round(client, pieces, op, &wait);
        while (r > 0);
        return r;
}
