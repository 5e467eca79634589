/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <utlist.h>

#include "common/clock.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "sources/nbd/nbd.h"

/* A read that takes its connection down each time must not keep others from being answered. */
#define LOST_MAX 3u
/* How long an answer that nobody waits for may take before the connection is given up with it. */
#define FORGOTTEN_US (10 * USEC_PER_SEC)

void read_answer(struct read *read, int result) {
        struct worker *worker = read->worker;

        read->busy = false;
        read->connection = NULL;
        worker->memory->slots[read->slot].result = result;
        order_helper_post(&worker->memory->done[read->slot / 64], 1ull << (read->slot % 64));
        worker->wake_needed = true;
}

static void read_queue(struct read *read) {
        read->connection = NULL;
        DL_APPEND(read->worker->todo, read);
}

static void read_take(struct worker *worker, unsigned slot) {
        struct read *read = &worker->reads[slot];
        const struct pb_helper_slot *from = &worker->memory->slots[slot];

        if (read->busy || slot >= 2 * worker->depth ||
            !(order_helper_owned(&worker->memory->owned[slot / 64]) >> (slot % 64) & 1))
                return;
        *read = (struct read) { .worker = worker, .slot = slot, .offset = from->offset, .length = from->length, .busy = true };
        if (read->length == 0 || read->length > PB_HELPER_READ_MAX || !range_fits(read->offset, read->length, worker->size)) {
                read_answer(read, -EINVAL);
                return;
        }
        read_queue(read);
}

/* Nobody waits for it any more. One that hangs on a silent connection takes that with it: its buffer is wanted back. */
static void read_forget(struct read *read) {
        if (!read->busy || read->forgotten)
                return;
        read->forgotten = true;
        if (!read->connection) {
                DL_DELETE(read->worker->todo, read);
                read_answer(read, -ECANCELED);
        } else if (read->connection->heard_us <= read->since_us)
                connection_fail(read->connection, "does not answer");
}

void reads_take(struct worker *worker) {
        for (unsigned i = 0; i < PB_HELPER_WORDS; i++) {
                uint64_t bits = order_helper_take(&worker->memory->submitted[i]);

                for (; bits; bits &= bits - 1)
                        read_take(worker, i * 64 + (unsigned) __builtin_ctzll(bits));
                bits = order_helper_take(&worker->memory->forgotten[i]);
                for (; bits; bits &= bits - 1)
                        read_forget(&worker->reads[i * 64 + (unsigned) __builtin_ctzll(bits)]);
        }
}

void reads_inherit(struct worker *worker) {
        for (unsigned slot = 0; slot < PB_HELPER_SLOTS; slot++)
                if (!(order_helper_peek(&worker->memory->done[slot / 64]) >> (slot % 64) & 1))
                        read_take(worker, slot);
}

static int on_chunk(void *data, const void *buffer, size_t count, uint64_t offset, unsigned status, int *error) {
        struct read *read = data;

        if (status == LIBNBD_READ_DATA || status == LIBNBD_READ_HOLE)
                read->seen += count;
        return 0;
}

bool is_lost(int error) {
        return error == ENOTCONN || error == ESHUTDOWN || error == ECONNRESET || error == EPIPE;
}

static int on_done(void *data, int *error) {
        struct read *read = data;
        struct connection *connection = read->connection;

        connection->n_active--;
        connection->heard_us = clock_now_us();
        if (is_lost(*error) && !read->forgotten && ++read->n_lost < LOST_MAX)
                read_queue(read);
        else if (*error)
                read_answer(read, -*error);
        /* A server that says "done" and has sent less: the rest of the buffer is some other page's. */
        else if (read->seen != read->length)
                read_answer(read, -EPROTO);
        else {
                connection->back_off_us = 0;
                read_answer(read, (int) read->length);
        }
        return 1; /* the command is freed */
}

void reads_start(struct worker *worker) {
        while (worker->todo) {
                struct connection *connection = connection_pick(worker);
                struct read *read = worker->todo;

                if (!connection) {
                        if (worker->changed) {
                                DL_DELETE(worker->todo, read);
                                read_answer(read, -ESTALE);
                                continue;
                        }
                        return;
                }
                DL_DELETE(worker->todo, read);
                read->connection = connection;
                read->seen = 0;
                read->since_us = clock_now_us();
                connection->n_active++;
                if (nbd_aio_pread_structured(
                            connection->nbd, worker->buffers + (size_t) read->slot * PB_HELPER_READ_MAX, read->length, read->offset,
                            (nbd_chunk_callback) { .callback = on_chunk, .user_data = read },
                            (nbd_completion_callback) { .callback = on_done, .user_data = read }, 0) < 0) {
                        if (read->connection != connection)
                                continue; /* it died in the call, which has called back */
                        connection->n_active--;
                        read_queue(read);
                        connection_fail(connection, nbd_get_error());
                        return;
                }
        }
}

void reads_requeue(struct connection *connection) {
        struct worker *worker = connection->worker;

        for (unsigned slot = 0; slot < 2 * worker->depth; slot++) {
                struct read *read = &worker->reads[slot];

                if (!read->busy || read->connection != connection)
                        continue;
                if (read->forgotten)
                        read_answer(read, -ECANCELED);
                else if (++read->n_lost < LOST_MAX)
                        read_queue(read);
                else
                        read_answer(read, -ECONNRESET);
        }
}

void reads_expire(struct worker *worker, uint64_t now_us, uint64_t *next_us) {
        for (unsigned slot = 0; slot < 2 * worker->depth; slot++) {
                struct read *read = &worker->reads[slot];

                if (!read->busy || !read->forgotten || !read->connection)
                        continue;
                if (now_us >= read->since_us + FORGOTTEN_US)
                        connection_fail(read->connection, "does not answer one of its requests");
                else
                        *next_us = min_u64(*next_us, read->since_us + FORGOTTEN_US);
        }
}
