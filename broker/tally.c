/* SPDX-License-Identifier: MIT */
#include "broker/tally.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <utlist.h>

#include "broker/memory.h"
#include "common/clock.h"
#include "common/fence.h"
#include "common/macro.h"

#define SLOTS_SIZE (PB_RING_SLOTS * sizeof(struct wait_note))

/* A range in one word, so that it is never seen half-written: 4 bits of memory, 34 of first page, 26 of count. The count
 * is never 0. */
#define MEMORY_SHIFT 60u
#define FIRST_SHIFT 26u
#define FIRST_MASK ((1ull << 34) - 1)
static_assert(PB_MEMORIES_MAX <= 1u << (64 - MEMORY_SHIFT), "fits");
static_assert(PB_MEMORY_SIZE_MAX / PB_PAGE_BYTES <= FIRST_MASK + 1, "fits");

struct tally *tally_new(void) {
        struct tally *tally = calloc(1, sizeof *tally);

        if (tally)
                atomic_init(&tally->references, 1);
        return tally;
}

struct tally *tally_ref(struct tally *tally) {
        if (tally)
                atomic_fetch_add_explicit(&tally->references, 1, memory_order_relaxed);
        return tally;
}

struct tally *tally_unref(struct tally *tally) {
        /* Release: what its user has counted is seen by the sweep that sees him gone. */
        if (tally)
                atomic_fetch_sub_explicit(&tally->references, 1, memory_order_release);
        return NULL;
}

int tally_add_slots(struct tally *tally) {
        void *map;

        if (tally->slots)
                return 0;
        /* Mapped, not malloc()ed: only the pages of slots that are used get memory. */
        map = mmap(NULL, SLOTS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (map == MAP_FAILED)
                return -ENOMEM;
        tally->slots = map;
        return 0;
}

static void tally_free(struct tally *tally) {
        if (tally->slots)
                (void) munmap(tally->slots, SLOTS_SIZE);
        free(tally);
}

void tally_sweep(struct tally **list, struct latency departed[TALLY_CLASSES]) {
        struct tally *tally, *next;

        LL_FOREACH_SAFE (*list, tally, next) {
                if (atomic_load_explicit(&tally->references, memory_order_acquire) > 1)
                        continue;
                for (unsigned class = 0; class < TALLY_CLASSES; class++)
                        latency_merge(&departed[class], &tally->latency[class]);
                LL_DELETE(*list, tally);
                tally_free(tally);
        }
}

void tally_free_all(struct tally **list) {
        struct tally *tally, *next;

        LL_FOREACH_SAFE (*list, tally, next) {
                LL_DELETE(*list, tally);
                tally_free(tally);
        }
}

void tally_take(struct tally *tally, enum request_class class) {
        if (tally && class < TALLY_CLASSES)
                atomic_fetch_add_explicit(&tally->taken[class], 1, memory_order_relaxed);
}

void tally_begin(struct tally *tally, enum request_class class) {
        if (tally && class < TALLY_CLASSES)
                atomic_fetch_add_explicit(&tally->waiting[class], 1, memory_order_relaxed);
}

void tally_answered(struct tally *tally, enum request_class class, uint64_t since_ns) {
        if (tally && class < TALLY_CLASSES)
                latency_add(&tally->latency[class], clock_now_ns() - since_ns);
}

void tally_end(struct tally *tally, enum request_class class, uint64_t since_ns) {
        if (!tally || class >= TALLY_CLASSES)
                return;
        atomic_fetch_sub_explicit(&tally->waiting[class], 1, memory_order_relaxed);
        if (since_ns > 0)
                tally_answered(tally, class, since_ns);
}

uint64_t tally_pack(const struct page_range *range) {
        return (uint64_t) range->memory->index << MEMORY_SHIFT | range->first << FIRST_SHIFT |
               min_u64(range->count, TALLY_COUNT_MAX);
}

static struct waited unpack(uint64_t since_ns, uint64_t word) {
        return (struct waited) {
                .since_ns = since_ns,
                .memory = (unsigned) (word >> MEMORY_SHIFT),
                .first = word >> FIRST_SHIFT & FIRST_MASK,
                .count = word & TALLY_COUNT_MAX,
        };
}

void tally_note_slot(struct tally *tally, unsigned slot, const struct request *request, uint64_t since_ns) {
        struct wait_note *note;

        if (!tally || !tally->slots)
                return;
        note = &tally->slots[slot];
        for (unsigned i = 0; i < request->n_ranges; i++)
                atomic_store_explicit(&note->ranges[i], tally_pack(&request->ranges[i]), memory_order_relaxed);
        if (request->n_ranges < PB_SLOT_RANGES)
                atomic_store_explicit(&note->ranges[request->n_ranges], 0, memory_order_relaxed);
        atomic_store_explicit(&note->since_ns, since_ns, memory_order_release);
}

void tally_clear_slot(struct tally *tally, unsigned slot) {
        if (!tally || !tally->slots)
                return;
        atomic_store_explicit(&tally->slots[slot].since_ns, 0, memory_order_relaxed);
        /* Before the words of the next request in this slot, which a reader of this one may see: he looks at since_ns
         * again afterwards, and finds it changed. */
        fence_release();
}

unsigned tally_read_slot(const struct wait_note *note, struct waited ret[PB_SLOT_RANGES]) {
        uint64_t since_ns = atomic_load_explicit(&note->since_ns, memory_order_acquire);
        unsigned n = 0;

        if (since_ns == 0)
                return 0;
        for (; n < PB_SLOT_RANGES; n++) {
                uint64_t word = atomic_load_explicit(&note->ranges[n], memory_order_relaxed);

                if (word == 0)
                        break;
                ret[n] = unpack(since_ns, word);
        }
        fence_acquire();
        return atomic_load_explicit(&note->since_ns, memory_order_relaxed) == since_ns ? n : 0;
}

bool tally_read_fault(const struct fault_note *note, struct waited *ret, int *ret_error) {
        uint64_t since_ns = atomic_load_explicit(&note->since_ns, memory_order_acquire);
        uint64_t word = atomic_load_explicit(&note->range, memory_order_relaxed);
        int error = atomic_load_explicit(&note->error, memory_order_relaxed);

        fence_acquire();
        if (since_ns == 0 || word == 0 || atomic_load_explicit(&note->since_ns, memory_order_relaxed) != since_ns)
                return false;
        *ret = unpack(since_ns, word);
        *ret_error = error;
        return true;
}
