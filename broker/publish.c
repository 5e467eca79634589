/* SPDX-License-Identifier: MIT */
#include "broker/publish.h"

#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "broker/request.h"
#include "common/futex.h"
#include "protocol/order.h"

/* #syscalls:broker futex:op=FUTEX_WAKE_BITSET */

/*
 * Bytes, bit, wake, CONTINUE; in this order (invariant 1). The bytes are there; the bit is set here; the waits are
 * settled after it, under the shard's lock, so that a request which attached itself before is found and one that
 * comes later sees the bit (invariant 8: whom to wake is decided after the bit is set). The peers' threads continue
 * when their request or hint arrives, which is after the bit.
 *
 * The wake on the map's word is unconditional: whoever holds the read-only map may sleep there, and nothing says who.
 */
void publish_pages(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, uint64_t backed) {
        uint32_t *words = &memory->present[slice * 2];
        unsigned n = (unsigned) __builtin_popcountll(mask);

        for (unsigned i = 0; i < 2; i++) {
                uint32_t bits = (uint32_t) (mask >> (32 * i));

                if (!bits)
                        continue;
                KILL_POINT("bytes-in");
                (void) order_present_publish(&words[i], bits);
                KILL_POINT("bit-set");
                (void) futex_wake_bitset(&words[i], bits);
        }
        KILL_POINT("woken");
        waits_done(slice_settle(memory, slice, mask, 0));
        memory_take_back(memory, slice, mask);
        if (backed)
                peers_hint(memory, slice, backed);
        if (atomic_fetch_add_explicit(&memory->pages_present, n, memory_order_acq_rel) + n == memory->n_pages)
                pager_memory_filled(pager);
}

void publish_poison(struct memory *memory, uint64_t slice, uint64_t mask, int reason) {
        waits_done(slice_poison(memory, slice, mask, reason));
}

void publish_failure(struct memory *memory, uint64_t slice, uint64_t mask, int error) {
        waits_done(slice_settle(memory, slice, mask, error));
}

uint64_t publish_unwanted(struct memory *memory, uint64_t slice, uint64_t mask, int error, bool leave_out) {
        uint64_t demanded;

        waits_done(slice_settle_unwanted(memory, slice, mask, error, leave_out, &demanded));
        return demanded;
}
