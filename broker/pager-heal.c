/* SPDX-License-Identifier: MIT */
/* Healing: poisoned pages are absent again, and who still waits for them asks the source once more. */
#include <errno.h>
#include <inttypes.h>

#include "broker/events.h"
#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/peer.h"
#include "broker/source.h"
#include "common/log.h"

static uint64_t heal_slices(struct memory *memory, uint64_t first, uint64_t n) {
        uint64_t last = first + n - 1, healed = 0;

        for (uint64_t slice = slice_of(first); slice <= slice_of(last); slice++) {
                uint64_t begin = slice * SLICE_PAGES, mask = ~0ull;

                if (slice == slice_of(first))
                        mask &= slice_mask(first, begin + SLICE_PAGES - 1);
                if (slice == slice_of(last))
                        mask &= slice_mask(begin, last);
                /* Without the lock: a page that is poisoned just now is not what was meant to be healed. */
                if ((memory_poison_mask(memory, slice) | memory_left_out_mask(memory, slice)) & mask)
                        healed += (unsigned) __builtin_popcountll(slice_heal(memory, slice, mask));
        }
        return healed;
}

int pager_heal(struct pager *pager, struct memory *memory, uint64_t first, uint64_t n, uint64_t *ret_healed) {
        bool left_out = atomic_load_explicit(&memory->pages_left_out, memory_order_relaxed) > 0;
        int r;

        if (!left_out && atomic_load_explicit(&memory->pages_poisoned, memory_order_relaxed) == 0) {
                *ret_healed = 0;
                return 0;
        }
        /* Of a source that is another one by now the pages would be poisoned again, one by one. */
        r = memory->source->ops->check(memory->source);
        if (r < 0)
                return r;
        *ret_healed = heal_slices(memory, first, n);
        if (left_out)
                pager_fill_again(pager);
        if (*ret_healed == 0)
                return 0;
        memory_forget_reasons(memory, first, n);
        /* After the bits: who is told asks again. Linked clients have been answered; they ask when they want to. */
        peers_ask_again(memory);
        pager_fill_again(pager);
        return 0;
}

void pager_source_returned(void *data) {
        struct pager_memory *entry = data;

        atomic_store_explicit(&entry->returned, true, memory_order_relaxed);
        atomic_store_explicit(&entry->pager->source_returned, true, memory_order_release);
        driver_signal(&entry->pager->driver);
}

bool pager_heal_returned(struct pager *pager) {
        if (!atomic_exchange_explicit(&pager->source_returned, false, memory_order_acquire))
                return false;
        for (unsigned i = 0; i < pager->n_memories; i++) {
                struct memory *memory = pager->memories[i];
                uint64_t healed;

                if (!atomic_exchange_explicit(&pager->entries[i].returned, false, memory_order_relaxed))
                        continue;
                if (pager_heal(pager, memory, 0, memory->n_pages, &healed) == 0 && healed > 0)
                        log_event(LOG_NOTICE, (.id = EVENT_HEALED, .memory = memory->name),
                                  "memory %s: source %s is back: %" PRIu64 " pages healed", memory->name,
                                  memory->source->name, healed);
        }
        return true;
}
