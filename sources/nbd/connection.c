/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"
#include "sources/nbd/nbd.h"

/* What a server may take to let us in. The first time somebody waits for an answer, and a reason to give up. */
#define HANDSHAKE_US (10 * USEC_PER_SEC)
#define BACK_OFF_FIRST_US (100 * USEC_PER_MSEC)
#define BACK_OFF_MAX_US (5 * USEC_PER_SEC)

bool connection_is_ready(const struct connection *connection) {
        return connection->state == CONNECTION_READY;
}

struct connection *connection_pick(struct worker *worker) {
        struct connection *best = NULL;

        for (unsigned i = 0; i < worker->n_connections; i++) {
                struct connection *connection = &worker->connections[i];

                if (connection_is_ready(connection) && connection->n_active < CONNECTION_DEPTH &&
                    (!best || connection->n_active < best->n_active))
                        best = connection;
        }
        return best;
}

static void say_failed(struct connection *connection, const char *why) {
        struct worker *worker = connection->worker;

        (void) snprintf(worker->error, sizeof worker->error, "%s", why);
        if (!worker->opened || connection->told)
                return;
        connection->told = true;
        log_warning("connection %u to %s: %s; connecting again", connection->index, worker->options->uri, why);
}

void connection_fail(struct connection *connection, const char *why) {
        bool was_ready = connection_is_ready(connection);
        uint64_t now_us = clock_now_us();

        say_failed(connection, why); /* `why` may be the handle's */
        connection->state = CONNECTION_DOWN;
        nbd_close(connection->nbd);
        connection->nbd = NULL;
        free(PTR_TAKE(connection->samples));
        reads_requeue(connection);
        releases_requeue(connection);
        allocation_lost(connection);
        connection->n_active = connection->n_samples = connection->n_releasing = 0;
        /* At once after one that has served, then ever later. */
        connection->at_us = now_us + (was_ready && connection->back_off_us == 0 ? 0 : connection->back_off_us);
        connection->back_off_us =
                connection->back_off_us == 0 ? BACK_OFF_FIRST_US : min_u64(2 * connection->back_off_us, BACK_OFF_MAX_US);
}

static int connection_set_up(struct nbd_handle *nbd) {
        return nbd_set_uri_allow_local_file(nbd, true) < 0 || nbd_set_full_info(nbd, true) < 0 ||
                               nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
                               /* What the server leaves out is noticed by counting (read.c). */
                               nbd_set_pread_initialize(nbd, false) < 0
                       ? -EINVAL
                       : 0;
}

void connection_start(struct connection *connection) {
        connection->nbd = nbd_create();
        connection->state = CONNECTION_RESOLVING;
        connection->at_us = USEC_INFINITY; /* the resolver has limits of its own */
        if (!connection->nbd || connection_set_up(connection->nbd) < 0)
                connection_fail(connection, nbd_get_error() ?: "cannot connect");
        else
                connector_push(connection);
}

static void connection_resolved(struct connection *connection, uint64_t now_us) {
        connection->state = CONNECTION_CONNECTING;
        connection->at_us = now_us + HANDSHAKE_US;
        if (connection->connect_error[0])
                connection_fail(connection, connection->connect_error);
}

/* The handshake is over: can it be used at all? */
static const char *connection_refuse(const struct connection *connection) {
        int64_t min = nbd_get_block_size(connection->nbd, LIBNBD_SIZE_MINIMUM);
        int64_t max = nbd_get_block_size(connection->nbd, LIBNBD_SIZE_MAXIMUM);

        if (min > (int64_t) SAMPLE_BYTES)
                return "the server's smallest request is larger than a page of 4 KiB";
        if (max > 0 && max < (int64_t) PB_HELPER_READ_MAX)
                return "the server's largest request is smaller than 256 KiB";
        return NULL;
}

/* Its identity is known: is it what was opened? */
static void connection_accept(struct connection *connection, const char *identity, uint64_t now_us) {
        struct worker *worker = connection->worker;
        bool again = worker->opened && connection->told;

        if (worker->identity[0] && strcmp(worker->identity, identity) != 0) {
                worker->changed = true;
                log_error("connection %u to %s: the export is not the one that was opened: it was %s; it is %s", connection->index,
                          worker->options->uri, worker->identity, identity);
                connection->told = true;
                connection_fail(connection, "the export has changed");
                return;
        }
        worker->changed = false;
        connection->state = CONNECTION_READY;
        connection->heard_us = now_us;
        connection->told = false;
        if (again)
                log_notice("connection %u to %s: connected again", connection->index, worker->options->uri);
        if (!worker->opened)
                worker_opened(worker, connection, identity);
        else
                worker_connect_others(worker, connection);
}

static void connection_advance(struct connection *connection, uint64_t now_us) {
        char identity[PB_HELPER_TEXT_SIZE];
        const char *why;
        int r;

        if (connection->state == CONNECTION_CONNECTING && nbd_aio_is_ready(connection->nbd) > 0) {
                why = connection_refuse(connection);
                connection->state = CONNECTION_SAMPLING;
                connection->at_us = now_us + HANDSHAKE_US; /* it answers: a busy one gets the time once more */
                if (why || identity_start(connection) < 0) {
                        connection_fail(connection, why ?: nbd_get_error() ?: "cannot read what identifies it");
                        return;
                }
        }
        if (connection->state == CONNECTION_SAMPLING) {
                r = identity_get(connection, identity);
                if (r < 0)
                        connection_fail(connection, "what identifies it cannot be read");
                else if (r == 0)
                        connection_accept(connection, identity, now_us);
        }
}

static int connection_notify(struct connection *connection, short revents) {
        unsigned direction = nbd_aio_get_direction(connection->nbd);

        /* An error of the socket comes out of whichever call is due. */
        if (revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
                return nbd_aio_notify_read(connection->nbd);
        if (revents & (POLLOUT | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
                return nbd_aio_notify_write(connection->nbd);
        return 0;
}

void connection_step(struct connection *connection, short revents, uint64_t now_us) {
        if (connection->state == CONNECTION_DOWN) {
                if (now_us >= connection->at_us)
                        connection_start(connection);
                return;
        }
        if (connection->state == CONNECTION_RESOLVING) {
                if (!connector_is_done(connection))
                        return;
                connection_resolved(connection, now_us);
                /* The call may have gone through all of the handshake: then nothing that could be polled follows. */
                if (connection->state == CONNECTION_CONNECTING)
                        connection_advance(connection, now_us);
                return;
        }
        if (connection_notify(connection, revents) < 0) {
                connection_fail(connection, nbd_get_error() ?: "lost");
                return;
        }
        if (nbd_aio_is_dead(connection->nbd) != 0 || nbd_aio_is_closed(connection->nbd) != 0) {
                connection_fail(connection, "the server has closed it");
                return;
        }
        connection_advance(connection, now_us);
        if ((connection->state == CONNECTION_CONNECTING || connection->state == CONNECTION_SAMPLING) &&
            now_us >= connection->at_us)
                connection_fail(connection, "the server does not answer");
}
