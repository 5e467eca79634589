/* SPDX-License-Identifier: MIT */
/* Requests that nobody waits for here: pb_submit() and pb_prefetch(). */
#include <errno.h>

#include "client/batch.h"
#include "client/client.h"
#include "client/completion.h"
#include "client/piece.h"
#include "client/slot.h"

/* All slots that the pieces need, or none. */
static int claim_all(pb_client *client, const struct cursor *cursor, enum pb_slot_op op, unsigned flags,
                     struct batch *batch) {
        struct piece_iterator pieces = {
                .cursor = *cursor,
                .skip_present = true,
                .no_intent = op == PB_SLOT_PREFETCH,
        };
        int r;

        r = batch_fill(batch, client, &pieces, op, flags, -1);
        if (r == 0)
                return 0;
        batch_release(batch, client);
        return r < 0 ? r : -EINVAL; /* more than all slots together can hold */
}

/* A second try after outcomes have been taken in: their slots are free then, though nobody has reaped them yet. */
static int claim_all_or_harvest(pb_client *client, const struct cursor *cursor, enum pb_slot_op op, unsigned flags,
                                struct batch *batch) {
        int r = claim_all(client, cursor, op, flags, batch);

        if (r != -EAGAIN)
                return r;
        completion_harvest_for_reaper(client);
        return claim_all(client, cursor, op, flags, batch);
}

static void push_request(pb_client *client, unsigned request, uint64_t cookie, const struct batch *batch) {
        uint32_t before = client_generation(client), after;

        client->requests[request] = (struct client_request) { .cookie = cookie, .remaining = batch->n };
        for (unsigned i = 0; i < batch->n; i++) {
                struct client_slot *slot = &client->slots[batch->slots[i]];

                slot->request = request;
                __atomic_store_n(&slot->generation, 0, __ATOMIC_RELAXED);
                (void) bitmap_set(client->pushing, batch->slots[i]);
                __atomic_store_n(&client->async[batch->slots[i]], completion_claim(client, batch->slots[i], before),
                                 __ATOMIC_SEQ_CST);
                /* Not before: the broker may find it by a ready bit of the slot's last use, and the completion would be
                 * nobody's (model: epoch.pml ASYNC COMMIT_EARLY). */
                slot_commit(client, batch->slots[i]);
        }
        slots_push_async(client, batch->slots, batch->n);
        after = client_generation(client);
        for (unsigned i = 0; i < batch->n; i++) {
                __atomic_store_n(&client->slots[batch->slots[i]].left, after, __ATOMIC_RELAXED);
                completion_leave_slot(client, batch->slots[i]);
        }
}

static int submit(pb_client *client, const struct pb_range *ranges, unsigned n, uint64_t cookie,
                  struct failure *failure) {
        struct cursor cursor = CURSOR(client, ranges, n);
        uint16_t slots[PB_RING_SLOTS];
        struct batch batch = { .slots = slots, .max = PB_RING_SLOTS };
        struct missing missing;
        unsigned bad;
        int request, r;

        r = ranges_check(client, ranges, n, &bad);
        if (r < 0) {
                failure->place_kind = FAILURE_AT_GPA;
                failure->place = ranges[bad].gpa;
                return r;
        }
        if (!cursor_find_missing(&cursor, &missing))
                return 1;
        client_count(&client->counters.slow_calls);
        if (client_is_dead(client))
                return -ECONNRESET;
        request = bitmap_claim(client->request_busy);
        if (request < 0)
                return request;
        r = claim_all_or_harvest(client, &cursor, PB_SLOT_ENSURE, PB_SLOT_ASYNC, &batch);
        if (r < 0 || batch.n == 0) { /* everything became present meanwhile */
                (void) bitmap_clear(client->request_busy, (unsigned) request);
                return r < 0 ? r : 1;
        }
        push_request(client, (unsigned) request, cookie, &batch);
        return 0;
}

int pb_submit(pb_client *client, const struct pb_range *ranges, unsigned n, uint64_t cookie) {
        struct failure failure = { .call = FAILURE_SUBMIT };
        int r = client_check(client);

        if (r < 0)
                return r;
        failure.error = submit(client, ranges, n, cookie, &failure);
        return failure.error < 0 ? failure_record(&client->failures, &failure) : failure.error;
}

static int prefetch(pb_client *client, const struct pb_range *range) {
        struct cursor cursor = CURSOR(client, range, 1);
        uint16_t slots[PB_REGIONS_MAX / PB_SLOT_RANGES + 1];
        struct batch batch = { .slots = slots, .max = PB_REGIONS_MAX / PB_SLOT_RANGES + 1 };
        struct missing missing;
        unsigned bad;
        int r;

        r = ranges_check(client, range, 1, &bad);
        if (r < 0 || !cursor_find_missing(&cursor, &missing))
                return r;
        if (client_is_dead(client))
                return -ECONNRESET;
        r = claim_all_or_harvest(client, &cursor, PB_SLOT_PREFETCH, 0, &batch);
        if (r < 0 || batch.n == 0)
                return r;
        slots_push(client, batch.slots, batch.n);
        batch_abandon(&batch, client);
        return 0;
}

int pb_prefetch(pb_client *client, uint64_t gpa, size_t len) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = prefetch(client, &(struct pb_range) { .gpa = gpa, .len = len, .intent = PB_READ });
        if (r < 0)
                return failure_record(&client->failures,
                                      &(struct failure) { FAILURE_PREFETCH, r, FAILURE_AT_GPA, 0, gpa });
        return 0;
}
