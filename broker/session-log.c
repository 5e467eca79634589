/* SPDX-License-Identifier: MIT */
/* What the log says of a session. */
#include <inttypes.h>

#include "broker/memory.h"
#include "broker/session.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

#define SLICES_PER_MIB ((1u << 20) / (SLICE_PAGES * (unsigned) PB_PAGE_BYTES))

/* Once a session: what comes of it is counted. */
void session_log_held_back(const struct session *session) {
        log_event(LOG_NOTICE, (.client = session->name),
                  "client %s has %u requests and %u MiB under way, as much as it may (--client-requests=%u, "
                  "--client-bytes=%uM): others of its own wait",
                  session->name, session->n_started, session->n_waits / SLICES_PER_MIB, session->limits.requests,
                  session->limits.slices / SLICES_PER_MIB);
}

/* A request says of itself only how far it has been issued, and that it is done later than its pages are there. So we look,
 * though at no more than a client may make us look at. */
#define LOOK_SLICES 4096u

static bool find_absent(const struct request *request, unsigned *budget, const struct memory **ret_memory,
                        uint64_t *ret_page) {
        for (unsigned i = 0; i < request->n_ranges; i++) {
                const struct page_range *range = &request->ranges[i];
                uint64_t end = range->first + range->count;

                for (uint64_t page = range->first; page<end && * budget> 0; (*budget)--) {
                        uint64_t slice = slice_of(page), next = min_u64((slice + 1) * SLICE_PAGES, end);
                        uint64_t absent = slice_mask(page, next - 1) & ~memory_present_mask(range->memory, slice);

                        if (absent) {
                                *ret_memory = range->memory;
                                *ret_page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(absent);
                                return true;
                        }
                        page = next;
                }
        }
        return false;
}

void session_log_left(const struct session *session, const struct request *const requests[], unsigned n_requests) {
        static struct log_limit limit = { .interval_us = USEC_PER_SEC, .burst = 20 };
        unsigned budget = LOOK_SLICES;
        const struct memory *memory;
        uint32_t suppressed;
        uint64_t page;

        for (unsigned i = 0; i < n_requests && budget > 0; i++)
                if (find_absent(requests[i], &budget, &memory, &page)) {
                        if (log_limit_pass(&limit, &suppressed))
                                log_event(LOG_INFO, (.client = session->name, .memory = memory->name),
                                          "client %s was in the middle of a request when its connection ended: page %" PRIu64
                                          " of memory %s was still absent",
                                          session->name, page, memory->name);
                        return;
                }
}
