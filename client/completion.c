/* SPDX-License-Identifier: MIT */
#include "client/completion.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/slot.h"
#include "protocol/order.h"

/* The raw call: no cancellation point (harvesting happens inside pb_ensure()). */
void completion_signal_leftovers(pb_client *client) {
        uint64_t one = 1;
        int saved = errno;

        (void) syscall(SYS_write, client->leftover_fd, &one, sizeof one);
        errno = saved;
}

void completion_count_down(pb_client *client, unsigned request, int result) {
        struct client_request *r = &client->requests[request];
        int32_t none = 0;

        /* The first error stands for all. */
        if (result < 0)
                (void) __atomic_compare_exchange_n(&r->result, &none, result, false, __ATOMIC_RELAXED,
                                                   __ATOMIC_RELAXED);
        if (__atomic_sub_fetch(&r->remaining, 1, __ATOMIC_ACQ_REL) == 0)
                (void) bitmap_set(client->request_done, request);
}

uint64_t completion_claim(const pb_client *client, unsigned slot, uint32_t generation) {
        return (uint64_t) generation << 32 | client->slots[slot].sequence;
}

static bool take_slot(pb_client *client, unsigned slot, uint64_t claim) {
        return claim != 0 && __atomic_compare_exchange_n(&client->async[slot], &claim, 0, false, __ATOMIC_SEQ_CST,
                                                         __ATOMIC_SEQ_CST);
}

/*
 * Once a slot's word in `async` is set, a thread that resumes may push it, and others may harvest its outcome, while
 * pb_submit() has not set the ready bit yet. If the slot were used again by then, the late ready bit would hit the next
 * request half-written. One that is not too late for the broker that has answered is passed over by it. But after
 * another resume it is a request that nobody waits for, whose completion would be taken for one of the slot's next
 * use: then there is none. That takes two restarts inside a few instructions.
 */
void completion_leave_slot(pb_client *client, unsigned slot) {
        const struct client_slot *s = &client->slots[slot];

        if (bitmap_clear(client->pushing, slot))
                return;
        if ((int32_t) (__atomic_load_n(&s->left, __ATOMIC_RELAXED) -
                       __atomic_load_n(&s->generation, __ATOMIC_RELAXED)) <= 0)
                slot_release(client, slot);
}

/* The slot's word in `async` has been taken by us: it is ours, but for pb_submit(). An outcome that an entry announces and
 * that is none is a broker's lie: the slot stays out of use until there is one. */
static bool finish_slot(pb_client *client, unsigned slot, uint64_t outcome, uint32_t generation, int if_undecided) {
        unsigned request = client->slots[slot].request;
        int result = slot_judge(client, slot, outcome);

        __atomic_store_n(&client->slots[slot].generation, generation, __ATOMIC_RELAXED);
        if (result != -EINPROGRESS)
                completion_leave_slot(client, slot);
        else if (!bitmap_clear(client->pushing, slot))
                (void) bitmap_set(client->zombie, slot);
        completion_count_down(client, request, result != -EINPROGRESS ? result : if_undecided);
        return true;
}

bool completion_harvest(pb_client *client) {
        bool any = false;

        /* Bounded: a tail that makes no sense yields entries that make none, and these are passed over. */
        for (unsigned i = 0; i < PB_RING_SLOTS; i++) {
                uint64_t cursor = __atomic_load_n(&client->completion_cursor, __ATOMIC_SEQ_CST), outcome = 0, claim = 0;
                uint32_t generation = (uint32_t) (cursor >> 32), head = (uint32_t) cursor, slot;

                /* Odd: the queue is being replaced. */
                if (generation & 1 || head == order_completion_tail(&client->state->completion_tail))
                        break;
                /* All is read before the exchange that makes it ours. The broker cannot reuse the entry before the slot
                 * in it is free again; and if queue and state are another broker's meanwhile, the exchange fails. Then
                 * the slot, in the same way: whoever resumes may have taken it, and given it to the next broker
                 * (model: epoch.pml ASYNC PLAIN_BIT). */
                slot = order_completion_entry(&client->state->completions[head % PB_RING_SLOTS]);
                if (slot < PB_RING_SLOTS) {
                        outcome = order_outcome_load(&client->state->outcome[slot]);
                        claim = __atomic_load_n(&client->async[slot], __ATOMIC_SEQ_CST);
                }
                if (!__atomic_compare_exchange_n(&client->completion_cursor, &cursor,
                                                 (uint64_t) generation << 32 | (uint32_t) (head + 1), false,
                                                 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                        continue;
                if (slot < PB_RING_SLOTS && take_slot(client, slot, claim))
                        any |= finish_slot(client, slot, outcome, generation, -EPROTO);
        }
        return any;
}

void completion_harvest_for_reaper(pb_client *client) {
        if (completion_harvest(client))
                completion_signal_leftovers(client);
}

void completion_fail_all(pb_client *client) {
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                if (take_slot(client, i, __atomic_load_n(&client->async[i], __ATOMIC_SEQ_CST)))
                        (void) finish_slot(client, i, order_outcome_load(&client->state->outcome[i]),
                                           client_generation(client), -ECONNRESET);
}
