/* SPDX-License-Identifier: MIT */
/* What the broker has installed is trimmed at the server, if that was asked for: post-copy gives the source's memory back
 * as it goes. What was left out on the way is trimmed when the broker has everything, before the worker ends. */
#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "sources/nbd/nbd.h"

/* At the end: a server that is gone for good must not keep us. One that answers may take as long as it likes. */
#define FINISH_US (30 * USEC_PER_SEC)
#define TRIM_MAX (1ull << 30)

void release_add(struct worker *worker, uint64_t offset, uint64_t length) {
        unsigned last = (worker->release_head + worker->n_releases - 1) % RELEASES_MAX;

        if (!worker->options->release || worker->n_releases == RELEASES_MAX)
                return;
        if (worker->n_releases > 0 && worker->releases[last].offset + worker->releases[last].length == offset &&
            worker->releases[last].length + length <= TRIM_MAX) {
                worker->releases[last].length += length;
                return;
        }
        worker->releases[(worker->release_head + worker->n_releases++) % RELEASES_MAX] =
                (struct range) { .offset = offset, .length = length };
}

static bool releases_wait(const struct worker *worker) {
        return worker->n_releases > 0 || worker->rest.length > 0;
}

static struct range release_next(struct worker *worker) {
        struct range range;

        if (worker->n_releases > 0) {
                range = worker->releases[worker->release_head];
                worker->release_head = (worker->release_head + 1) % RELEASES_MAX;
                worker->n_releases--;
                return range;
        }
        range = (struct range) { worker->rest.offset, min_u64(worker->rest.length, TRIM_MAX) };
        worker->rest.offset += range.length;
        worker->rest.length -= range.length;
        return range;
}

static struct trim *trim_new(struct connection *connection, struct range range) {
        struct worker *worker = connection->worker;
        struct trim *trim = worker->trims;

        while (trim->connection)
                trim++; /* there are as many as may be under way */
        *trim = (struct trim) { .worker = worker, .connection = connection, .range = range };
        connection->n_active++;
        connection->n_releasing++;
        worker->n_trims++;
        return trim;
}

static void trim_free(struct trim *trim) {
        trim->connection->n_active--;
        trim->connection->n_releasing--;
        trim->connection = NULL;
        trim->worker->n_trims--;
}

static int on_trimmed(void *data, int *error) {
        struct trim *trim = data;
        struct worker *worker = trim->worker;

        if (is_lost(*error))
                release_add(worker, trim->range.offset, trim->range.length);
        else if (*error)
                log_info("the server does not release %" PRIu64 " bytes at %" PRIu64 ": %s", trim->range.length,
                         trim->range.offset, strerror(*error));
        else
                worker->finish_until_us = clock_now_us() + FINISH_US;
        trim_free(trim);
        return 1;
}

void releases_requeue(struct connection *connection) {
        struct worker *worker = connection->worker;

        for (unsigned i = 0; i < ELEMENTS(worker->trims); i++) {
                struct trim *trim = &worker->trims[i];

                if (trim->connection != connection)
                        continue;
                release_add(worker, trim->range.offset, trim->range.length);
                trim_free(trim);
        }
}

/* Behind the reads: somebody waits for those. */
void release_step(struct worker *worker) {
        while (releases_wait(worker) && !worker->todo) {
                struct connection *connection = connection_pick(worker);
                struct range range;
                struct trim *trim;

                if (!connection || connection->n_releasing >= RELEASES_AT_ONCE)
                        return;
                range = release_next(worker);
                if (nbd_can_trim(connection->nbd) <= 0)
                        continue;
                trim = trim_new(connection, range);
                if (nbd_aio_trim(connection->nbd, range.length, range.offset,
                                 (nbd_completion_callback) { .callback = on_trimmed, .user_data = trim }, 0) >= 0)
                        continue;
                if (trim->connection != connection)
                        continue; /* it died in the call, which has called back */
                if (nbd_aio_is_ready(connection->nbd) > 0 || nbd_aio_is_processing(connection->nbd) > 0) {
                        trim_free(trim); /* the call itself was wrong for this server */
                        continue;
                }
                connection_fail(connection, nbd_get_error());
                return;
        }
}

static void finish_begin(struct worker *worker) {
        const struct range range = { worker->memory->finish_offset, worker->memory->finish_length };

        worker->finishing = true;
        worker->finish_until_us = clock_now_us() + FINISH_US;
        if (!worker->options->release || !range_fits(range.offset, range.length, worker->size))
                return;
        /* All of it: also what a crash, a full socket or a full ring has lost, and what was never read. */
        worker->n_releases = 0;
        worker->rest = range;
}

static bool finish_is_reached(const struct worker *worker) {
        for (unsigned i = 0; i < worker->n_connections && !worker->allocation_done; i++)
                if (connection_is_ready(&worker->connections[i]))
                        return false; /* it is telling us what is zeros: for the broker's counters */
        return !releases_wait(worker) && worker->n_trims == 0;
}

void finish_step(struct worker *worker) {
        if (!worker->finishing && order_helper_load(&worker->memory->finish)) {
                finish_begin(worker);
                release_step(worker);
        }
        if (!worker->finishing)
                return;
        if (!finish_is_reached(worker)) {
                if (clock_now_us() < worker->finish_until_us)
                        return;
                if (releases_wait(worker) || worker->n_trims > 0)
                        log_warning("%s: the server does not answer; it may keep what it could give back",
                                    worker->options->uri);
        }
        order_helper_store(&worker->memory->map_known, 1);
        order_helper_store(&worker->memory->finished, 1);
        worker->end = true;
}
