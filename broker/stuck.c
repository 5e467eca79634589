/* SPDX-License-Identifier: MIT */
#include "broker/stuck.h"

#include <stdlib.h>
#include <utlist.h>

#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "broker/tally.h"
#include "common/clock.h"
#include "common/macro.h"

/* How far into a range of a request the first absent page is looked for. */
#define LOOK_PAGES_MAX (1ull << 16)

/* A note to be looked at: a slot's of a session, or a fault's of a peer. */
struct candidate {
        uint64_t since_ns;
        const struct connection *connection;
        const struct wait_note *slot;
        const struct fault_note *fault;
};

/* The oldest so far: a heap with the youngest of them on top, so that memory and time are bounded whatever waits. */
struct candidates {
        struct candidate *heap;
        unsigned n, max;
        uint64_t total, before_ns;
};

static void swap(struct candidate *a, struct candidate *b) {
        struct candidate c = *a;

        *a = *b;
        *b = c;
}

static void sift_down(struct candidate *heap, unsigned n) {
        for (unsigned at = 0, child; (child = 2 * at + 1) < n; at = child) {
                if (child + 1 < n && heap[child + 1].since_ns > heap[child].since_ns)
                        child++;
                if (heap[at].since_ns >= heap[child].since_ns)
                        return;
                swap(&heap[at], &heap[child]);
        }
}

static void consider(struct candidates *all, struct candidate candidate) {
        if (candidate.since_ns == 0 || candidate.since_ns > all->before_ns)
                return;
        all->total++;
        if (all->n < all->max) {
                unsigned at = all->n++;

                for (all->heap[at] = candidate; at > 0 && all->heap[(at - 1) / 2].since_ns < all->heap[at].since_ns;
                     at = (at - 1) / 2)
                        swap(&all->heap[at], &all->heap[(at - 1) / 2]);
        } else if (all->n > 0 && candidate.since_ns < all->heap[0].since_ns) {
                all->heap[0] = candidate;
                sift_down(all->heap, all->n);
        }
}

static void consider_client(struct candidates *all, const struct connection *connection) {
        const struct tally *tally = connection->tally;

        for (unsigned i = 0; tally && tally->slots && i < PB_RING_SLOTS; i++)
                consider(all, (struct candidate) {
                                      .since_ns = atomic_load_explicit(&tally->slots[i].since_ns, memory_order_relaxed),
                                      .connection = connection,
                                      .slot = &tally->slots[i],
                              });
        for (unsigned p = 0; p < connection->n_peers; p++) {
                const struct fault_note *notes = peer_notes(connection->peers[p]);

                for (unsigned i = 0; i < TALLY_PEER_NOTES; i++)
                        consider(all, (struct candidate) {
                                              .since_ns = atomic_load_explicit(&notes[i].since_ns, memory_order_relaxed),
                                              .connection = connection,
                                              .fault = &notes[i],
                                      });
        }
}

static int compare(const void *a, const void *b) {
        const struct candidate *left = a, *right = b;

        return left->since_ns < right->since_ns ? -1 : left->since_ns > right->since_ns;
}

/* ---- why ---- */

/* The first page of the range that is not here. False: all are, as far as was looked. */
static bool find_absent(const struct memory *memory, const struct waited *waited, uint64_t *ret_page) {
        uint64_t end = min_u64(waited->first + min_u64(waited->count, LOOK_PAGES_MAX), memory->n_pages);

        for (uint64_t page = waited->first; page < end; page = (page | (SLICE_PAGES - 1)) + 1) {
                uint64_t mask = slice_mask(page, min_u64(page | (SLICE_PAGES - 1), end - 1));

                mask &= ~memory_present_mask(memory, slice_of(page));
                if (mask) {
                        *ret_page = slice_of(page) * SLICE_PAGES + (unsigned) __builtin_ctzll(mask);
                        return true;
                }
        }
        return false;
}

static void explain(const struct pager *pager, struct memory *memory, struct stuck *stuck) {
        uint64_t bit = slice_mask(stuck->page, stuck->page);
        struct trail_answer trail;

        if (memory_poison_mask(memory, slice_of(stuck->page)) & bit) {
                stuck->why = STUCK_POISONED;
                stuck->error = memory_poison_reason(memory, stuck->page) ?: stuck->error;
                return;
        }
        trail = trail_look(&pager->trail, memory->index, slice_of(stuck->page));
        /* An older failure is of an earlier wait. */
        if (trail.failed & bit && trail.at_us >= stuck->since_ns / NSEC_PER_USEC) {
                stuck->why = STUCK_RETRYING;
                stuck->tries = trail.tries;
                stuck->error = trail.error;
        } else if (stuck->error)
                stuck->why = STUCK_RETRYING; /* a peer asks again by itself */
        else
                stuck->why = trail.reading & bit ? STUCK_READING : STUCK_QUEUED;
}

static bool resolve(struct broker *broker, const struct candidate *candidate, struct stuck *ret) {
        struct waited waited[PB_SLOT_RANGES] = {};
        struct stuck stuck = { .connection = candidate->connection, .class = CLASS_DEVICE };
        unsigned n = 1;

        if (candidate->slot)
                n = tally_read_slot(candidate->slot, waited);
        else {
                stuck.class = CLASS_VCPU;
                n = tally_read_fault(candidate->fault, waited, &stuck.error);
        }
        if (n == 0 || waited[0].since_ns != candidate->since_ns) /* answered meanwhile */
                return false;
        stuck.since_ns = candidate->since_ns;
        stuck.page = waited[0].first;
        stuck.memory = pager_get_memory(broker->pager, waited[0].memory);
        stuck.why = STUCK_ANSWERING;
        for (unsigned i = 0; i < n; i++) {
                struct memory *memory = pager_get_memory(broker->pager, waited[i].memory);

                if (!memory || !find_absent(memory, &waited[i], &stuck.page))
                        continue;
                stuck.memory = memory;
                explain(broker->pager, memory, &stuck);
                break;
        }
        if (!stuck.memory)
                return false;
        *ret = stuck;
        return true;
}

unsigned stuck_collect(struct broker *broker, const struct connection *of, uint64_t min_us, struct stuck *ret, unsigned max,
                       uint64_t *ret_total) {
        static struct candidate heap[STUCK_MAX]; /* the control thread's */
        uint64_t now_ns = clock_now_ns(), min_ns = min_us < now_ns / NSEC_PER_USEC ? min_us * NSEC_PER_USEC : now_ns;
        struct candidates all = { .heap = heap, .max = max < STUCK_MAX ? max : STUCK_MAX, .before_ns = now_ns - min_ns };
        const struct connection *connection;
        unsigned n = 0;

        if (of)
                consider_client(&all, of);
        else
                DL_FOREACH (broker->connections, connection)
                        consider_client(&all, connection);
        qsort(heap, all.n, sizeof *heap, compare);
        for (unsigned i = 0; i < all.n; i++)
                if (resolve(broker, &heap[i], &ret[n]))
                        n++;
        *ret_total = all.total;
        return n;
}

const char *stuck_why_name(enum stuck_why why) {
        static const char *const names[] = {
                [STUCK_QUEUED] = "queued",     [STUCK_READING] = "reading",     [STUCK_RETRYING] = "retrying",
                [STUCK_POISONED] = "poisoned", [STUCK_ANSWERING] = "answering",
        };

        return names[why];
}
