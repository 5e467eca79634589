/* SPDX-License-Identifier: MIT */
/*
 * base:allocation, asked for from the start of the export to its end, in the background: what is known to be zeros costs
 * no read. Only LIBNBD_STATE_ZERO counts; a hole that does not say so may read as anything. What the server does not
 * say, or says wrongly framed, stays data.
 */
#include <string.h>

#include "common/log.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "protocol/presence.h"
#include "sources/nbd/nbd.h"

/* The protocol's lengths have 32 bits. */
#define ASK_MAX (1ull << 31)

static void mark_zero(struct worker *worker, uint64_t begin, uint64_t end) {
        uint64_t page = align_up(begin, PB_PAGE_BYTES) / PB_PAGE_BYTES, last = end / PB_PAGE_BYTES;

        while (page < last) {
                uint64_t stop = min_u64(align_down(page, 32) + 32, last);

                order_helper_mark_zero(&worker->zero_map[page / 32], presence_mask(page, stop - 1));
                page = stop;
        }
}

static int on_extents(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t n, int *error) {
        struct worker *worker = data;

        if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != worker->allocation_at)
                return 0;
        for (size_t i = 0; i + 1 < n; i += 2) {
                uint64_t end = min_u64(worker->allocation_at + entries[i], worker->size);

                if (entries[i + 1] & LIBNBD_STATE_ZERO)
                        mark_zero(worker, worker->allocation_at, end);
                worker->allocation_at = end;
        }
        return 0;
}

static void finish(struct worker *worker) {
        worker->allocation_done = true;
        order_helper_store(&worker->memory->map_known, 1);
}

struct question {
        struct worker *worker;
        struct connection *connection;
        uint64_t from;
};

static struct question question; /* one at a time */

static int on_done(void *data, int *error) {
        struct worker *worker = question.worker;

        question.connection->n_active--;
        worker->allocation_busy = false;
        /* Lost with its connection: asked again. An error, or an answer without any extent: the rest is data. */
        if (*error && !nbd_aio_is_dead(question.connection->nbd) && !nbd_aio_is_closed(question.connection->nbd)) {
                log_info("the server does not tell which parts are zeros (from byte %llu on)",
                         (unsigned long long) worker->allocation_at);
                finish(worker);
        } else if (!*error && worker->allocation_at == question.from)
                finish(worker);
        return 1;
}

void allocation_lost(const struct connection *connection) {
        if (connection->worker->allocation_busy && question.connection == connection)
                connection->worker->allocation_busy = false;
}

void allocation_step(struct worker *worker) {
        struct connection *connection;

        if (worker->allocation_done || worker->allocation_busy)
                return;
        if (worker->allocation_at >= worker->size) {
                finish(worker);
                return;
        }
        connection = connection_pick(worker);
        if (!connection)
                return;
        if (nbd_can_meta_context(connection->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) <= 0) {
                finish(worker);
                return;
        }
        question = (struct question) { .worker = worker, .connection = connection, .from = worker->allocation_at };
        worker->allocation_busy = true;
        connection->n_active++;
        if (nbd_aio_block_status(connection->nbd, min_u64(ASK_MAX, worker->size - worker->allocation_at), worker->allocation_at,
                                 (nbd_extent_callback) { .callback = on_extents, .user_data = worker },
                                 (nbd_completion_callback) { .callback = on_done }, 0) < 0 &&
            worker->allocation_busy) {
                connection->n_active--;
                worker->allocation_busy = false;
                finish(worker);
        }
}
