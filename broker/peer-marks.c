/* SPDX-License-Identifier: MIT */
/*
 * --on-error=poison: pages that UFFDIO_POISON has marked in a peer's page table. Who touches one gets SIGBUS, and we hear
 * nothing of it. So each mark is a fault that we keep without a thread that waits for it, until the page is there and CONTINUE
 * replaces the mark; and it is in the ledger, for the next broker, before it is in the page table.
 */
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer-internal.h"
#include "common/alloc.h"
#include "common/macro.h"

static bool enter_mark(struct peer_fault *fault) {
        struct peer *peer = fault->peer;

        if (!peer->entry) /* there will be no next broker */
                return true;
        if (fault->mark_place == LEDGER_MARKS_MAX)
                fault->mark_place = ledger_mark_enter(peer->ledger, peer->entry, fault->memory->index, fault->first_page);
        KILL_POINT("mark-entered");
        return fault->mark_place < LEDGER_MARKS_MAX;
}

void fault_leave_mark(struct peer_fault *fault) {
        struct peer *peer = fault->peer;

        if (peer->entry && fault->mark_place < LEDGER_MARKS_MAX)
                ledger_mark_leave(peer->ledger, peer->entry, fault->mark_place);
        fault->mark_place = LEDGER_MARKS_MAX;
}

/* A thread gets SIGBUS instead of a page. Where that cannot be had, it goes on waiting. */
void fault_mark(struct peer_fault *fault) {
        struct peer *peer = fault->peer;
        uint32_t suppressed;
        int r = -ENOSPC;

        if ((fault->marked || peer->n_marked < PEER_MARKED_MAX) && enter_mark(fault)) {
                r = peer_poison(peer, fault->memory, fault->first_page, fault_n_pages(fault));
                KILL_POINT("marked");
        }
        if (r < 0 && log_limit_pass(&peer->limit, &suppressed))
                log_warning("peer %u (%s): page %llu of memory %s cannot be poisoned there (%s): its threads wait", peer->id,
                            peer->name, (unsigned long long) fault->first_page, fault->memory->name, strerror(-r));
        /* One of several mappings may be marked and another not: the place in the ledger stays until the page is there. */
        if (r < 0 || fault->marked)
                return;
        fault->marked = true;
        fault_unnote(fault, false); /* nobody waits any more */
        peer->n_faults--;
        peer->n_marked++;
}

bool peer_clear_marks(struct peer *peer, struct memory *memory) {
        struct peer_fault *fault, *next;
        bool clear = true;

        DL_FOREACH (peer->faults, fault)
                if (fault->marked && fault->memory == memory)
                        clear = peer_resolve(peer, memory, fault->first_page) == 0 && clear;
        DL_FOREACH_SAFE (peer->failed, fault, next) {
                if (!fault->marked || fault->memory != memory)
                        continue;
                if (peer_resolve(peer, memory, fault->first_page) < 0) {
                        clear = false;
                        continue;
                }
                DL_DELETE(peer->failed, fault);
                fault_leave_mark(fault);
                fault_free(fault, false);
        }
        return clear;
}

static bool peer_maps(const struct peer *peer, const struct memory *memory, uint64_t page) {
        uint64_t offset = page * PB_PAGE_BYTES;

        for (unsigned i = 0; i < peer->n_mappings; i++)
                if (peer->mappings[i].memory == memory && offset >= peer->mappings[i].offset &&
                    offset - peer->mappings[i].offset < peer->mappings[i].length)
                        return true;
        return false;
}

static bool restore_mark(struct peer *peer, unsigned place, uint32_t index, uint64_t page) {
        struct memory *memory = pager_get_memory(peer->pager, index);
        struct peer_fault *fault;

        /* Unmapped since, and the mark with the mapping. */
        if (!memory || page >= memory->n_pages || !peer_maps(peer, memory, page)) {
                ledger_mark_leave(peer->ledger, peer->entry, place);
                return true;
        }
        fault = alloc_zeroed(sizeof *fault);
        if (!fault)
                return false;
        fault->peer = peer;
        fault->memory = memory;
        fault->first_page = align_down(page, peer_backing_pages(memory));
        fault->marked = true;
        fault->mark_place = place;
        peer->n_marked++;
        /* Asked for in the first turn: a restart tries again, and what has been had meanwhile is continued. */
        DL_APPEND(peer->failed, fault);
        return true;
}

bool peer_restore_marks(struct peer *peer) {
        uint32_t memory;
        uint64_t page;

        if (!peer->entry)
                return true;
        for (unsigned place = 0; place < LEDGER_MARKS_MAX; place++)
                if (ledger_mark_get(peer->ledger, peer->entry, place, &memory, &page) &&
                    !restore_mark(peer, place, memory, page))
                        return false;
        return true;
}
