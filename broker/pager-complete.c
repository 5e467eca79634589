/* SPDX-License-Identifier: MIT */
/* Invariant 12: done is free. */
#include <malloc.h>
#include <utlist.h>

#include "broker/fetch.h"
#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/peer.h"
#include "broker/session.h"
#include "common/log.h"
#include "protocol/order.h"

/* #syscalls:broker brk munmap madvise:advice=MADV_DONTNEED */

/* Says so in the map, once per memory, and lets the peers go. */
void pager_check_filled(struct pager *pager) {
        struct session *session;
        bool news = false;

        if (!atomic_exchange_explicit(&pager->filled, false, memory_order_acquire))
                return;
        for (unsigned i = 0; i < pager->n_memories; i++) {
                struct memory *memory = pager->memories[i];

                if (memory->completed || atomic_load_explicit(&memory->pages_present, memory_order_acquire) < memory->n_pages)
                        continue;
                memory->completed = news = true;
                order_complete_set(&memory->map->complete);
                peers_release(memory);
        }
        if (!news)
                return;
        DL_FOREACH (pager->sessions, session)
                session_wake(session);
        if (pager_is_complete(pager)) {
                pager->fill_on = false;
                /* It may have pages to look at still, all of them present, and nobody would let it do that any more. */
                pager_fill_stop(pager);
                atomic_store_explicit(&pager->fill_on_now, false, memory_order_relaxed);
                pager->events.completed(pager->events.data);
        }
}

/* What fetched is not needed any more, once the last late answer is in: the ring or the workers, and the buffers. */
static bool may_be_wanted_later(const struct pager *pager) {
        for (unsigned i = 0; i < pager->n_memories; i++)
                if (atomic_load_explicit(&pager->memories[i]->pages_present, memory_order_relaxed) < pager->memories[i]->n_pages)
                        return true; /* of a memory that is not plugged in */
        return false;
}

void pager_retire(struct pager *pager) {
        if (pager->retired || !pager_is_complete(pager) || may_be_wanted_later(pager))
                return;
        if (pager->reads || pager->retries || pager->fill_active || pager->n_replays > 0 ||
            !fetch_queue_is_empty(&pager->fetch_queue))
                return;
        pager->retired = true;
        reader_retire(pager->reader);
        (void) malloc_trim(0);
        log_info("nothing is left to be read; what reads pages has been taken down");
}
