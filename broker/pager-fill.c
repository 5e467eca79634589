/* SPDX-License-Identifier: MIT */
/* The background fill: a request for everything, of the lowest class, issued when nobody else wants anything, and a little
 * now and then when somebody always does. */
#include <inttypes.h>
#include <string.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/source.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* 8 MiB under way. */
#define FILL_WINDOW 32u
/* After a pass that did not bring every page, because their source failed, it looks again: twice. A page that fails also in
 * the pass after one that brought nothing is left out, until it is healed or somebody wants it. */
#define FILL_PAUSE_US (5 * USEC_PER_SEC)

static struct pager *pager_of(struct request *request) {
        return CONTAINER_OF(request, struct pager, fill);
}

static void say_left_out(struct memory *memory) {
        uint64_t n = atomic_load_explicit(&memory->pages_left_out, memory_order_relaxed);

        /* Healing makes it try them again now and then: that is said no more until all of them have come. */
        if (memory->left_out_error && n > memory->left_out_said)
                log_warning("memory %s: the background fill leaves out %" PRIu64 " pages that source %s does not give; what "
                            "failed last begins with page %" PRIu64 " (offset 0x%llx): %s; they are read again when somebody "
                            "wants them or they are healed",
                            memory->name, n, memory->source->name, memory->left_out_page,
                            memory->left_out_page * PB_PAGE_BYTES, source_error_text(memory->left_out_error));
        if (n == 0 || n > memory->left_out_said)
                memory->left_out_said = n;
        memory->left_out_error = 0;
}

static void end_pass(struct memory *memory) {
        memory->fill_gives_up = atomic_load_explicit(&memory->pages_present, memory_order_relaxed) == memory->fill_present;
        say_left_out(memory);
}

static void fill_complete(struct request *request, int result) {
        struct pager *pager = pager_of(request);

        if (!request->forgotten)
                end_pass(request->ranges[0].memory);
        request_unlist(request);
        request_done(request);
        pager->fill_active = false;
        /* From its end: a pass over a failing source may take longer than the pause. */
        if (++pager->fill_memory >= pager->n_memories)
                pager->fill_again_us = clock_now_us() + FILL_PAUSE_US;
}

static void fill_more(struct request *request) {
        request_list(&pager_of(request)->fill_ready, request);
}

static void fill_forgotten(struct request *request) {
        fill_complete(request, 0);
}

static const struct request_ops fill_ops = {
        .complete = fill_complete,
        .more = fill_more,
        .forgotten = fill_forgotten,
};

static bool memory_is_full(const struct memory *memory) {
        if (atomic_load_explicit(&memory->hidden, memory_order_relaxed))
                return true;
        return atomic_load_explicit(&memory->pages_present, memory_order_relaxed) +
                       atomic_load_explicit(&memory->pages_poisoned, memory_order_relaxed) +
                       atomic_load_explicit(&memory->pages_left_out, memory_order_relaxed) >=
               memory->n_pages;
}

/* Starts on the next memory that lacks pages. False if there is none, or not yet. */
static bool fill_start(struct pager *pager, uint64_t now_us) {
        if (pager->fill_memory >= pager->n_memories) {
                if (now_us < pager->fill_again_us)
                        return false;
                pager->fill_memory = 0;
        }
        while (pager->fill_memory < pager->n_memories && memory_is_full(pager->memories[pager->fill_memory]))
                pager->fill_memory++;
        if (pager->fill_memory == pager->n_memories) {
                pager->fill_again_us = now_us + FILL_PAUSE_US;
                return false;
        }
        memset(&pager->fill, 0, sizeof pager->fill);
        pager->fill.ranges[0] = (struct page_range) {
                .memory = pager->memories[pager->fill_memory],
                .count = pager->memories[pager->fill_memory]->n_pages,
        };
        pager->memories[pager->fill_memory]->fill_present =
                atomic_load_explicit(&pager->memories[pager->fill_memory]->pages_present, memory_order_relaxed);
        pager->fill.n_ranges = 1;
        pager->fill.best_effort = true;
        if (request_init(&pager->fill, &pager->driver, CLASS_FILL, FILL_WINDOW, &fill_ops) < 0) {
                pager->fill_memory = pager->n_memories;
                pager->fill_again_us = now_us + FILL_PAUSE_US;
                return false;
        }
        pager->fill_active = true;
        request_list(&pager->fill_ready, &pager->fill);
        return true;
}

/* ---- the rate ---- */

void pager_set_fill_rate(struct pager *pager, uint64_t rate) {
        atomic_store_explicit(&pager->fill_rate, rate, memory_order_relaxed);
        pager_poke(pager);
}

uint64_t pager_get_fill_rate(const struct pager *pager) {
        return atomic_load_explicit(&pager->fill_rate, memory_order_relaxed);
}

/* What the next slice is going to bring, or nothing if the next step only skips what is present. */
static uint64_t fill_next_bytes(const struct request *request) {
        const struct page_range *range = &request->ranges[0];
        const struct memory *memory = range->memory;
        uint64_t page = range->first + request->done, end = range->first + range->count;

        for (unsigned looked = 0; page < end && looked < 1024; looked++, page = (page | (SLICE_PAGES - 1)) + 1) {
                uint64_t mask = slice_mask(page, min_u64(page | (SLICE_PAGES - 1), end - 1));

                mask &= ~(memory_present_mask(memory, slice_of(page)) | memory_left_out_mask(memory, slice_of(page)));
                if (mask)
                        return (unsigned) __builtin_popcountll(mask & memory_data_mask(memory, slice_of(page))) *
                               PB_PAGE_BYTES;
        }
        return 0;
}

/* Peers' faults are served on their own threads: here they are seen by their number. */
static bool somebody_waits(struct pager *pager, uint64_t now_us) {
        uint64_t n_faults = atomic_load_explicit(&pager->faults_peer, memory_order_relaxed);

        if (n_faults != pager->n_faults)
                order_share_demand(&pager->share, now_us);
        pager->n_faults = n_faults;
        return order_share_is_busy(&pager->share, now_us);
}

static bool fill_may_step(struct pager *pager, struct request *request, uint64_t now_us) {
        uint64_t rate = pager_get_fill_rate(pager);

        /* A block of checksums is read whole, however little of it is claimed. */
        request->piece = somebody_waits(pager, now_us) && !request->ranges[0].memory->checksums ? ORDER_PIECE_PAGES : 0;
        if (order_share_due(&pager->share, now_us, pager->options.fill_share))
                return false;
        if (fetch_queue_count(&pager->fetch_queue) >= ORDER_FILL_AHEAD)
                return false;
        /* Begins anew: at the old rate the next step may be due in days. */
        if (rate != pager->fill_limit.bytes_per_second)
                pager->fill_limit = (struct order_rate) { .bytes_per_second = rate };
        return rate == 0 || order_rate_take(&pager->fill_limit, now_us, fill_next_bytes(request)) == 0;
}

bool pager_fill_step(struct pager *pager, uint64_t now_us) {
        struct request *request;
        enum request_step step;
        uint64_t end_us;

        if (!pager->fill_on)
                return false;
        if (!pager->fill_active && !fill_start(pager, now_us))
                return false;
        request = pager->fill_ready;
        if (!request || !fill_may_step(pager, request, now_us))
                return false;
        request_unlist(request);
        step = request_issue(pager, request, 1);
        end_us = clock_now_us();
        order_share_note(&pager->share, end_us, end_us - now_us, pager->options.fill_share);
        if (step == REQUEST_MORE)
                fill_more(request);
        else if (step == REQUEST_DECIDED)
                fill_complete(request, 0);
        return true;
}

void pager_fill_stop(struct pager *pager) {
        if (!pager->fill_active)
                return;
        request_unlist(&pager->fill);
        if (request_forget(&pager->fill))
                fill_complete(&pager->fill, 0);
}

uint64_t pager_fill_next(const struct pager *pager, uint64_t now_us) {
        uint64_t due_us;

        if (!pager->fill_on)
                return USEC_INFINITY;
        if (!pager->fill_active)
                return pager->fill_again_us;
        if (!pager->fill_ready)
                return USEC_INFINITY;
        due_us = order_share_due(&pager->share, now_us, pager->options.fill_share);
        if (pager_get_fill_rate(pager) > 0)
                due_us = max_u64(due_us, pager->fill_limit.due_us);
        /* What is due already waits for reads, whose ends wake us: to look again before that would be to do nothing else. */
        return due_us > now_us ? due_us : USEC_INFINITY;
}
