/* SPDX-License-Identifier: MIT */
#include "client/slot.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/futex.h"
#include "protocol/order.h"

bool bitmap_set(uint64_t *bitmap, unsigned bit) {
        uint64_t mask = 1ull << bit % 64;

        return __atomic_fetch_or(&bitmap[bit / 64], mask, __ATOMIC_SEQ_CST) & mask;
}

bool bitmap_clear(uint64_t *bitmap, unsigned bit) {
        uint64_t mask = 1ull << bit % 64;

        return __atomic_fetch_and(&bitmap[bit / 64], ~mask, __ATOMIC_SEQ_CST) & mask;
}

int bitmap_claim(uint64_t *bitmap) {
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++) {
                uint64_t word;

                while ((word = __atomic_load_n(&bitmap[i], __ATOMIC_SEQ_CST)) != UINT64_MAX) {
                        unsigned bit = i * 64 + (unsigned) __builtin_ctzll(~word);

                        if (!bitmap_set(bitmap, bit))
                                return (int) bit;
                }
        }
        return -EAGAIN;
}

static uint32_t slot_generation(const pb_client *client, unsigned slot) {
        return __atomic_load_n(&client->slots[slot].generation, __ATOMIC_RELAXED);
}

static void set_generation(pb_client *client, unsigned slot, uint32_t generation) {
        __atomic_store_n(&client->slots[slot].generation, generation, __ATOMIC_RELAXED);
}

int slot_judge(const pb_client *client, unsigned slot, uint64_t outcome) {
        int32_t result = outcome_result(outcome);

        if (outcome_sequence(outcome) != __atomic_load_n(&client->slots[slot].sequence, __ATOMIC_RELAXED) ||
            result == PB_OUTCOME_TAKEN)
                return -EINPROGRESS;
        return link_error(result);
}

/* An outcome in the old state, of a request that the next broker may be about to take a second time, must not count:
 * nobody may learn that a discard is done which is still to come (struct client_slot). */
int slot_outcome(const pb_client *client, unsigned slot) {
        if (slot_generation(client, slot) & 1)
                return -EINPROGRESS;
        return slot_judge(client, slot, order_outcome_load(&client->state->outcome[slot]));
}

/* The broker is done with it; or that broker has ended, and the next one has never seen it. */
static bool is_over(const pb_client *client, unsigned slot) {
        uint32_t pushed = slot_generation(client, slot), now = client_generation(client);

        return slot_outcome(client, slot) != -EINPROGRESS || ((pushed | now) % 2 == 0 && pushed != now);
}

/* A zombie of which nobody knows whether this broker has taken it. Ours while its bit is clear. Asked for once more, its
 * outcome will tell; but for a discard, which nobody wants any more: that one waits for its outcome, or for the next
 * broker, whichever comes first. */
static void settle(pb_client *client, unsigned slot) {
        uint16_t number = (uint16_t) slot;
        uint32_t now = client_generation(client);

        if (slot_generation(client, slot) % 2 == 0 || now & 1)
                return;
        if (client->slots[slot].op == PB_SLOT_DISCARD)
                set_generation(client, slot, now);
        else
                (void) slots_follow(client, &number, 1);
}

/* Only whoever clears the zombie bit may judge: the slot may have been reused and abandoned again since a look from
 * outside. */
static void reclaim_word(pb_client *client, unsigned word) {
        uint64_t bits = __atomic_load_n(&client->zombie[word], __ATOMIC_SEQ_CST);

        for (; bits != 0; bits &= bits - 1) {
                unsigned slot = word * 64 + (unsigned) __builtin_ctzll(bits);

                if ((!is_over(client, slot) && slot_generation(client, slot) % 2 == 0) ||
                    !bitmap_clear(client->zombie, slot))
                        continue;
                if (is_over(client, slot)) {
                        slot_release(client, slot);
                        continue;
                }
                settle(client, slot);
                (void) bitmap_set(client->zombie, slot);
        }
}

int slot_claim(pb_client *client) {
        int slot = bitmap_claim(client->busy);

        if (slot >= 0)
                return slot;
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++)
                reclaim_word(client, i);
        return bitmap_claim(client->busy);
}

void slot_release(pb_client *client, unsigned slot) {
        (void) bitmap_clear(client->busy, slot);
        /* Sequentially consistent on both sides (see wait_for_slot()): either the waiter finds the slot free, or it
         * is seen here. */
        if (__atomic_load_n(&client->slot_waiters, __ATOMIC_SEQ_CST) == 0)
                return;
        (void) __atomic_fetch_add(&client->slot_event, 1, __ATOMIC_SEQ_CST);
        (void) futex_wake_all(&client->slot_event);
}

void slot_abandon(pb_client *client, unsigned slot) {
        if (slot_outcome(client, slot) != -EINPROGRESS)
                slot_release(client, slot);
        else
                (void) bitmap_set(client->zombie, slot);
}

void slot_fill(pb_client *client, unsigned slot, enum pb_slot_op op, unsigned flags,
               const struct pb_slot_range *ranges, unsigned n_ranges) {
        const struct pb_slot head = { .op = (uint8_t) op, .flags = (uint8_t) flags, .n_ranges = (uint16_t) n_ranges };
        struct pb_slot *shared = &client->ring->slots[slot];
        uint32_t sequence = client->slots[slot].sequence + 1;

        if (sequence == 0)
                sequence = 1;
        /* Atomic because reclaim_word() looks at slots of others. */
        __atomic_store_n(&client->slots[slot].sequence, sequence, __ATOMIC_RELAXED);
        client->slots[slot].op = op;
        /* Until the commit there is nothing here for a ready bit to point at (model: epoch.pml ASYNC NO_VOID). */
        order_slot_store_sequence(&shared->sequence, 0);
        for (unsigned i = 0; i < n_ranges; i++) {
                order_slot_store64(&shared->ranges[i].first_page, ranges[i].first_page);
                order_slot_store64(&shared->ranges[i].n_pages, ranges[i].n_pages);
                order_slot_store32(&shared->ranges[i].memory, ranges[i].memory);
                order_slot_store32(&shared->ranges[i].intent, ranges[i].intent);
        }
        order_slot_store64(&shared->padding, 0);
        order_slot_store32(&shared->head, head.head);
}

/* By the raw call: write() is a cancellation point, and a thread that is cancelled here would take its slots along. An
 * eventfd that is full (a hostile holder of a duplicate) still reads as readable: nothing is lost. */
static void ring_doorbell(pb_client *client) {
        uint64_t one = 1;
        int saved = errno;

        (void) syscall(SYS_write, client->doorbell, &one, sizeof one);
        errno = saved;
}

void slots_ring(pb_client *client) {
        ring_doorbell(client);
}

void slot_commit(pb_client *client, unsigned slot) {
        order_slot_store_sequence(&client->ring->slots[slot].sequence, client->slots[slot].sequence);
}

void slots_push_async(pb_client *client, const uint16_t *slots, unsigned n) {
        struct pb_ring *ring = client->ring;

        for (unsigned i = 0; i < n; i++)
                order_request_push(&ring->ready[slots[i] / 64], 1ull << slots[i] % 64, &ring->summary,
                                   1u << slots[i] / 64);
        order_after_push();
        if (order_doorbell_needed(&client->state->doorbell_needed))
                ring_doorbell(client);
}

/* Pushed for sure in this generation only if it is the same before and after: a resume that begins afterwards cannot
 * leave the ready bit in place, one that began before may have cleared it or not. */
void slots_push(pb_client *client, const uint16_t *slots, unsigned n) {
        uint32_t generation = client_generation(client);

        for (unsigned i = 0; i < n; i++) {
                set_generation(client, slots[i], generation | 1);
                slot_commit(client, slots[i]);
        }
        slots_push_async(client, slots, n);
        if (generation & 1 || client_generation(client) != generation)
                return;
        for (unsigned i = 0; i < n; i++)
                set_generation(client, slots[i], generation);
}

bool slots_follow(pb_client *client, const uint16_t *slots, unsigned n) {
        uint32_t generation = client_generation(client);
        bool any = false;

        for (unsigned i = 0; generation % 2 == 0 && i < n; i++)
                if (slot_generation(client, slots[i]) != generation) {
                        slots_push(client, &slots[i], 1);
                        any = true;
                }
        return any;
}

void slots_push_again(pb_client *client, const uint16_t *slots, unsigned n) {
        struct pb_ring *ring = client->ring;

        /* No ready bit: the broker may have taken the request a moment ago, and a second one would be a second push. */
        for (unsigned i = 0; i < n; i++)
                order_request_push(&ring->ready[slots[i] / 64], 0, &ring->summary, 1u << slots[i] / 64);
        ring_doorbell(client);
}
