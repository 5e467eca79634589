/* SPDX-License-Identifier: MIT */
/* What a peer is given before it asks: the neighbours of its faults, and pages that others have brought. */
#include <string.h>

#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer-internal.h"
#include "broker/recorder.h"
#include "broker/serve.h"
#include "common/macro.h"

/* Continues the present runs of `mask`, whole backing pages only. */
static void peer_continue_mask(struct peer *peer, const struct peer_hint *hint) {
        uint64_t unit = peer_backing_pages(hint->memory), page = hint->slice * SLICE_PAGES;

        if (unit > 1) {
                uint64_t first = align_down(page, unit);

                if (first + unit <= hint->memory->n_pages && memory_is_present(hint->memory, first, unit))
                        (void) peer_continue(peer, hint->memory, first, unit, 0);
                return;
        }
        for (uint64_t rest = hint->mask & memory_present_mask(hint->memory, hint->slice); rest;) {
                unsigned first, count;

                mask_first_run(rest, &first, &count);
                (void) peer_continue(peer, hint->memory, page + first, count, 0);
                rest &= ~slice_mask(first, first + count - 1);
        }
}

bool peer_serve_around(struct peer *peer) {
        struct peer_hint *hint;
        uint64_t claimed;

        if (peer->n_around == 0)
                return false;
        hint = &peer->around[--peer->n_around];
        /* While it is recorded what is wanted, only what is here already is continued. */
        if (!recorder_is_on(peer->pager->recorder) &&
            slice_want(hint->memory, hint->slice, hint->mask, SLICE_SKIP_POISONED, NULL, &claimed) == 0 && claimed)
                serve_claimed(peer->pager, hint->memory, hint->slice, claimed, CLASS_PREFETCH, 0);
        peer_continue_mask(peer, hint);
        return true;
}

bool peer_run_hints(struct peer *peer) {
        struct peer_hint hints[PEER_HINTS_MAX];
        unsigned n;

        (void) pthread_mutex_lock(&peer->lock);
        n = peer->n_hints;
        memcpy(hints, peer->hints, n * sizeof hints[0]);
        peer->n_hints = 0;
        peer->hints_wanted = false;
        (void) pthread_mutex_unlock(&peer->lock);
        for (unsigned i = 0; i < n; i++)
                peer_continue_mask(peer, &hints[i]);
        return n > 0;
}

static void peer_add_hint(struct peer *peer, struct memory *memory, uint64_t slice, uint64_t mask) {
        bool wake = false;

        (void) pthread_mutex_lock(&peer->lock);
        if (peer->n_hints > 0 && peer->hints[peer->n_hints - 1].memory == memory &&
            peer->hints[peer->n_hints - 1].slice == slice)
                peer->hints[peer->n_hints - 1].mask |= mask;
        else if (peer->n_hints < PEER_HINTS_MAX) /* else it will fault on them, which is right too */
                peer->hints[peer->n_hints++] = (struct peer_hint) { memory, slice, mask };
        wake = peer->hints_wanted;
        peer->hints_wanted = false;
        (void) pthread_mutex_unlock(&peer->lock);
        if (wake)
                driver_signal(&peer->driver);
}

void peers_hint(struct memory *memory, uint64_t slice, uint64_t mask) {
        if (__atomic_load_n(&memory->n_peers, __ATOMIC_ACQUIRE) == 0)
                return;
        (void) pthread_mutex_lock(&memory->peers_lock);
        for (unsigned i = 0; i < memory->n_peers; i++)
                if (!driver_is_current(&memory->peers[i]->driver))
                        peer_add_hint(memory->peers[i], memory, slice, mask);
        (void) pthread_mutex_unlock(&memory->peers_lock);
}

void peers_ask_again(struct memory *memory) {
        (void) pthread_mutex_lock(&memory->peers_lock);
        for (unsigned i = 0; i < memory->n_peers; i++) {
                atomic_store(&memory->peers[i]->healed, true);
                driver_signal(&memory->peers[i]->driver);
        }
        (void) pthread_mutex_unlock(&memory->peers_lock);
}

void peers_release(struct memory *memory) {
        (void) pthread_mutex_lock(&memory->peers_lock);
        for (unsigned i = 0; i < memory->n_peers; i++) {
                atomic_store(&memory->peers[i]->release, true);
                driver_signal(&memory->peers[i]->driver);
        }
        (void) pthread_mutex_unlock(&memory->peers_lock);
}
