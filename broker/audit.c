/* SPDX-License-Identifier: MIT */
#include "broker/audit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/fetch.h"
#include "broker/memory.h"
#include "broker/request.h"
#include "common/macro.h"

/* Not fstat(3), which is newfstatat(2): that takes names.
 * #syscalls:broker fstat */

/* More of one kind say nothing new. */
#define FINDINGS_MAX 100u

struct audit {
        struct memory *memory;
        audit_finding finding;
        void *data;
        unsigned n_findings;
        int r;
};

static void PRINTF_LIKE(3, 4) find(struct audit *audit, const char *what, const char *format, ...) {
        char text[256];
        va_list args;
        int n = snprintf(text, sizeof text, "memory %s: ", audit->memory->name);

        if (audit->r < 0 || ++audit->n_findings > FINDINGS_MAX)
                return;
        va_start(args, format);
        (void) vsnprintf(text + n, sizeof text - (size_t) n, format, args);
        va_end(args);
        audit->r = audit->finding(audit->data, what, text);
}

static uint64_t get(const atomic_uint_fast64_t *counter) {
        return atomic_load_explicit(counter, memory_order_seq_cst);
}

static unsigned ones(uint64_t mask) {
        return (unsigned) __builtin_popcountll(mask);
}

static uint64_t first_page(uint64_t slice, uint64_t mask) {
        return slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask);
}

/* ---- the map ---- */

static void audit_header(struct audit *audit) {
        const struct memory *memory = audit->memory;
        const struct pb_map_header *map = memory->map;

        if (map->magic != PB_MAP_MAGIC || map->n_pages != memory->n_pages || map->backing_size != memory->backing_size ||
            map->map_size != presence_map_size(memory->n_pages))
                find(audit, "map", "the head of its map is not what was written there");
        if (map->complete && get(&memory->pages_present) < memory->n_pages)
                find(audit, "complete", "it is called complete, and pages are absent");
}

struct sums {
        uint64_t present, poisoned, backing; /* backing pages with a present page */
};

static struct sums sum_map(struct audit *audit) {
        const struct memory *memory = audit->memory;
        uint64_t per_backing = memory->backing_size / PB_PAGE_BYTES, last_backing = UINT64_MAX;
        struct sums sums = {};

        for (uint64_t slice = 0; slice * SLICE_PAGES < memory->n_pages; slice++) {
                uint64_t last = min_u64(slice * SLICE_PAGES + SLICE_PAGES, memory->n_pages) - 1;
                uint64_t mask = slice_mask(slice * SLICE_PAGES, last), present, poisoned;

                /* Poison first: it is taken away before the page gets present. */
                poisoned = memory_poison_mask(memory, slice);
                present = memory_present_mask(memory, slice);
                if ((present | poisoned) & ~mask)
                        find(audit, "map", "bits are set behind its last page");
                if (present & poisoned)
                        find(audit, "poison", "page %" PRIu64 " is present and poisoned", first_page(slice, present & poisoned));
                sums.present += ones(present & mask);
                sums.poisoned += ones(poisoned & mask);
                /* Only huge pages: of 4 KiB ones a published zero may be a hole (invariant 6). They are not smaller than a
                 * slice. */
                if (per_backing >= SLICE_PAGES && present && slice * SLICE_PAGES / per_backing != last_backing) {
                        last_backing = slice * SLICE_PAGES / per_backing;
                        sums.backing++;
                }
        }
        return sums;
}

/* Bits come before their counter, and both while others work: only what stands still can be compared exactly. */
static void audit_counters(struct audit *audit) {
        struct memory *memory = audit->memory;

        for (unsigned tries = 0;; tries++) {
                uint64_t present = get(&memory->pages_present), poisoned = get(&memory->pages_poisoned);
                bool still = get(&memory->pages_in_flight) == 0;
                unsigned before = audit->n_findings;
                struct sums sums = sum_map(audit);
                struct stat st;

                still = still && get(&memory->pages_in_flight) == 0 && get(&memory->pages_present) == present &&
                        get(&memory->pages_poisoned) == poisoned;
                /* Who has set a bit may not have counted it yet, when nothing is in flight any more. */
                if (still && tries < 3 && audit->n_findings == before && sums.present > present)
                        continue;
                if (sums.present < present || (still && sums.present > present))
                        find(audit, "present", "%" PRIu64 " pages are counted as present, the map has %" PRIu64, present,
                             sums.present);
                if (still && sums.poisoned != poisoned)
                        find(audit, "poison", "%" PRIu64 " pages are counted as poisoned, the map has %" PRIu64, poisoned,
                             sums.poisoned);
                if (get(&memory->pages_fetched) > memory->n_pages)
                        find(audit, "fetched", "more pages are counted as fetched than there are");
                if (sums.backing > 0 && syscall(SYS_fstat, memory->fd, &st) == 0 &&
                    (uint64_t) st.st_blocks * 512 / memory->backing_size < sums.backing)
                        find(audit, "backing", "%" PRIu64 " huge pages have present pages, %" PRIu64
                             " are backed: a client has punched holes", sums.backing,
                             (uint64_t) st.st_blocks * 512 / memory->backing_size);
                return;
        }
}

/* ---- what is in flight ---- */

/* Queued pages that some fetch is there for. */
static uint64_t fetched_mask(const struct slice *slice) {
        const struct fetch *fetch;
        uint64_t mask = 0;

        DL_FOREACH2 (slice->fetches, fetch, slice_next)
                for (uint64_t rest = fetch->mask; rest; rest &= rest - 1)
                        if (slice->ticket[__builtin_ctzll(rest)] == fetch->ticket)
                                mask |= rest & -rest;
        return mask;
}

static void audit_slice(struct audit *audit, const struct slice *slice) {
        uint64_t busy = slice->queued | slice->fetching | slice->installing, lost;
        uint64_t present = memory_present_mask(audit->memory, slice->index);
        const struct wait *wait;

        if ((slice->queued & slice->fetching) | (slice->queued & slice->installing) | (slice->fetching & slice->installing))
                find(audit, "state", "a page of slice %" PRIu64 " is in two states", slice->index);
        lost = slice->queued & ~fetched_mask(slice);
        if (lost)
                find(audit, "owner", "page %" PRIu64 " is queued, and no read is there for it", first_page(slice->index, lost));
        /* The bit is set before its owner settles the page: only installing ones may be present. */
        if ((slice->queued | slice->fetching) & present)
                find(audit, "state", "page %" PRIu64 " is present and to be read",
                     first_page(slice->index, (slice->queued | slice->fetching) & present));
        DL_FOREACH (slice->waits, wait)
                if (wait->mask & ~busy)
                        find(audit, "wait", "somebody waits for page %" PRIu64 ", which nobody works on",
                             first_page(slice->index, wait->mask & ~busy));
        if (!busy && !slice->waits && !slice->fetches)
                find(audit, "slice", "slice %" PRIu64 " is kept for nothing", slice->index);
}

static uint64_t audit_slices(struct audit *audit) {
        uint64_t n = 0;

        for (unsigned i = 0; i < SLICE_SHARDS; i++) {
                struct slice_shard *shard = &audit->memory->shards[i];
                const struct slice *slice, *next;

                (void) pthread_mutex_lock(&shard->lock);
                HASH_ITER (hh, shard->slices, slice, next) {
                        audit_slice(audit, slice);
                        n++;
                }
                (void) pthread_mutex_unlock(&shard->lock);
        }
        return n;
}

int audit_memory(struct memory *memory, audit_finding finding, void *data, struct audit_sums *sums) {
        struct audit audit = { .memory = memory, .finding = finding, .data = data };

        audit_header(&audit);
        audit_counters(&audit);
        sums->pages += memory->n_pages;
        sums->slices += audit_slices(&audit);
        return audit.r;
}
