/* SPDX-License-Identifier: MIT */
/* Prefetches that no client asked for, but an admin. */
#include <stdlib.h>
#include <utlist.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "common/macro.h"

#define PREFETCH_WINDOW 32u

struct own_prefetch {
        struct own_prefetch *prev, *next;
        struct pager *pager;
        struct request request;
};

static struct own_prefetch *of_request(struct request *request) {
        return CONTAINER_OF(request, struct own_prefetch, request);
}

static void own_complete(struct request *request, int result) {
        struct own_prefetch *prefetch = of_request(request);
        struct pager *pager = prefetch->pager;

        request_unlist(request);
        request_done(request);
        DL_DELETE(pager->own_prefetches, prefetch);
        atomic_fetch_sub_explicit(&pager->n_own_prefetches, 1, memory_order_relaxed);
        free(prefetch);
}

static void own_more(struct request *request) {
        request_list(pager_prefetch_list(of_request(request)->pager), request);
}

static void own_forgotten(struct request *request) {
        own_complete(request, 0);
}

static const struct request_ops own_ops = {
        .complete = own_complete,
        .more = own_more,
        .forgotten = own_forgotten,
};

void pager_prefetch_begin(struct pager *pager, struct own_prefetch *prefetch) {
        DL_APPEND(pager->own_prefetches, prefetch);
        own_more(&prefetch->request);
}

void pager_prefetch_stop(struct pager *pager) {
        struct own_prefetch *prefetch, *next;

        DL_FOREACH_SAFE (pager->own_prefetches, prefetch, next) {
                request_unlist(&prefetch->request);
                if (request_forget(&prefetch->request))
                        own_forgotten(&prefetch->request);
        }
}

bool pager_prefetch(struct pager *pager, struct memory *memory, uint64_t first, uint64_t n) {
        struct own_prefetch *prefetch = calloc(1, sizeof *prefetch);

        /* Counted here, where one thread asks; taken off where it ends. */
        if (!prefetch || atomic_load_explicit(&pager->n_own_prefetches, memory_order_relaxed) >= PAGER_PREFETCHES_MAX) {
                free(prefetch);
                return false;
        }
        prefetch->pager = pager;
        prefetch->request.n_ranges = 1;
        prefetch->request.ranges[0] = (struct page_range) { .memory = memory, .first = first, .count = n };
        prefetch->request.best_effort = true;
        if (request_init(&prefetch->request, &pager->driver, CLASS_PREFETCH, PREFETCH_WINDOW, &own_ops) < 0) {
                free(prefetch);
                return false;
        }
        atomic_fetch_add_explicit(&pager->n_own_prefetches, 1, memory_order_relaxed);
        pager_add_prefetch(pager, prefetch);
        return true;
}
