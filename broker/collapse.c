/* SPDX-License-Identifier: MIT */
#include "broker/collapse.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "broker/broker.h"
#include "broker/memory.h"
#include "common/log.h"
#include "common/reserve.h"

/* #syscalls:broker madvise:advice=MADV_HUGEPAGE|MADV_COLLAPSE mincore */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define BLOCK_PAGES (RESERVE_HUGE / PB_PAGE_BYTES)
/* Of a block's 512 pages. Holes, which are zeros, get memory by it: not for more than an eighth. */
#define BACKED_PAGES_MIN (BLOCK_PAGES / 8 * 7)
/* A block with a page that is busy or pinned, or that a peer has not let go yet, is tried again. */
#define PASSES 3u

struct collapse_count {
        uint64_t huge, sparse, failed; /* blocks */
        int error;                     /* the last one's */
};

static bool is_backed(const struct memory *memory, uint64_t offset) {
        unsigned char resident[BLOCK_PAGES];
        unsigned n = 0;

        if (mincore(memory->base + offset, RESERVE_HUGE, resident) < 0)
                return false;
        for (unsigned i = 0; i < BLOCK_PAGES; i++)
                n += resident[i] & 1;
        return n >= BACKED_PAGES_MIN;
}

/* A block that is huge already succeeds at once. */
static struct collapse_count collapse_pass(struct memory *memory) {
        struct collapse_count tally = {};

        for (uint64_t offset = 0; offset + RESERVE_HUGE <= memory->size; offset += RESERVE_HUGE) {
                if (atomic_load(&memory->closing))
                        break;
                if (!is_backed(memory, offset))
                        tally.sparse++;
                else if (madvise(memory->base + offset, RESERVE_HUGE, MADV_COLLAPSE) == 0)
                        tally.huge++;
                else {
                        tally.failed++;
                        tally.error = errno;
                }
        }
        return tally;
}

static void collapse_memory(struct memory *memory) {
        struct collapse_count tally = {};

        /* Takes back what forbade it. */
        if (madvise(memory->base, memory->size, MADV_HUGEPAGE) < 0) {
                log_notice("memory %s: no huge pages: %s; has this kernel CONFIG_TRANSPARENT_HUGEPAGE?", memory->name,
                           strerror(errno));
                return;
        }
        for (unsigned pass = 0; pass < PASSES && !atomic_load(&memory->closing); pass++) {
                tally = collapse_pass(memory);
                if (tally.failed == 0)
                        break;
        }
        log_info("memory %s: %" PRIu64 " of %" PRIu64 " MiB are on huge pages now, %" PRIu64 " MiB are sparse, %" PRIu64
                 " MiB could not be%s%s",
                 memory->name, 2 * tally.huge, memory->size >> 20, 2 * tally.sparse, 2 * tally.failed,
                 tally.failed ? ": " : "", tally.failed ? strerror(tally.error) : "");
}

static void *collapse_thread(void *arg) {
        struct broker *broker = arg;

        (void) pthread_setname_np(pthread_self(), "collapse");
        for (unsigned i = 0; i < broker->n_memories; i++)
                /* One that is not plugged in may lack pages still: huge pages behind these would be installed into memory
                 * that peers have mapped. */
                if (broker->memories[i]->backing_size == PB_PAGE_BYTES &&
                    atomic_load_explicit(&broker->memories[i]->pages_present, memory_order_acquire) ==
                            broker->memories[i]->n_pages)
                        collapse_memory(broker->memories[i]);
        return NULL;
}

void collapse_start(struct broker *broker) {
        sigset_t all, saved;

        if (!broker->options->collapse || broker->collapsing)
                return;
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        broker->collapsing = pthread_create(&broker->collapser, NULL, collapse_thread, broker) == 0;
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (!broker->collapsing)
                log_warning("no thread for --collapse; pages stay small");
}

void collapse_stop(struct broker *broker) {
        if (broker->collapsing)
                (void) pthread_join(broker->collapser, NULL);
        broker->collapsing = false;
}
