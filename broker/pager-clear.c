/* SPDX-License-Identifier: MIT */
/* A memory that nobody uses any more becomes zeros, and its pages are given back: the same way as a discard, for all of it. */
#include <errno.h>
#include <stdlib.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "common/macro.h"

#define CLEAR_WINDOW 64u

struct clearing {
        struct request request;
        struct pager *pager;
};

static void clear_complete(struct request *request, int result) {
        struct clearing *clearing = CONTAINER_OF(request, struct clearing, request);
        struct pager *pager = clearing->pager;
        struct memory *memory = request->ranges[0].memory;
        const struct page_range range = request->ranges[0];

        request_unlist(request);
        request_done(request);
        free(clearing);
        /* All bits are set: nothing can be fetched into it any more, and what is punched now stays zero. */
        if (result == 0)
                result = pager_punch_memory(pager, &range);
        if (result < 0)
                pager->events.memory_cleared(pager->events.data, memory, result);
}

static void clear_more(struct request *request) {
        request_list(&CONTAINER_OF(request, struct clearing, request)->pager->clearings, request);
}

static void clear_forgotten(struct request *request) {
        clear_complete(request, -ECANCELED);
}

static const struct request_ops clear_ops = {
        .complete = clear_complete,
        .more = clear_more,
        .forgotten = clear_forgotten,
};

void pager_clear_begin(struct pager *pager, struct memory *memory) {
        struct clearing *clearing = calloc(1, sizeof *clearing);

        if (!clearing) {
                pager->events.memory_cleared(pager->events.data, memory, -ENOMEM);
                return;
        }
        clearing->pager = pager;
        clearing->request.n_ranges = 1;
        clearing->request.ranges[0] =
                (struct page_range) { .memory = memory, .count = memory->n_pages, .overwrite = true };
        if (request_init(&clearing->request, &pager->driver, CLASS_FILL, CLEAR_WINDOW, &clear_ops) < 0) {
                free(clearing);
                pager->events.memory_cleared(pager->events.data, memory, -ENOMEM);
                return;
        }
        request_list(&pager->clearings, &clearing->request);
}

bool pager_clear_step(struct pager *pager) {
        struct request *request = pager->clearings;
        enum request_step step;

        if (!request)
                return false;
        request_unlist(request);
        step = request_issue(pager, request, CLEAR_WINDOW);
        if (step == REQUEST_MORE)
                clear_more(request);
        else if (step == REQUEST_DECIDED)
                clear_complete(request, request_result(request));
        return true;
}
