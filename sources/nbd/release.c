/* SPDX-License-Identifier: MIT */
/* What the broker has installed is trimmed at the server, if that was asked for: post-copy gives the source's memory back
 * as it goes. A trim that is lost with its connection is lost: its pages stay a little longer. */
#include "sources/nbd/nbd.h"

static int on_trimmed(void *data, int *error) {
        struct connection *connection = data;

        connection->n_active--;
        connection->n_releasing--;
        return 1;
}

void release_add(struct worker *worker, uint64_t offset, uint64_t length) {
        unsigned last = (worker->release_head + worker->n_releases - 1) % RELEASES_MAX;

        if (!worker->options->release || worker->n_releases == RELEASES_MAX)
                return;
        if (worker->n_releases > 0 && worker->releases[last].offset + worker->releases[last].length == offset &&
            worker->releases[last].length + length <= (1u << 30)) {
                worker->releases[last].length += length;
                return;
        }
        worker->releases[(worker->release_head + worker->n_releases++) % RELEASES_MAX] =
                (struct range) { .offset = offset, .length = length };
}

/* Behind the reads: somebody waits for those. */
void release_step(struct worker *worker) {
        while (worker->n_releases > 0 && !worker->todo) {
                struct connection *connection = connection_pick(worker);
                struct range range = worker->releases[worker->release_head];

                if (!connection || connection->n_releasing >= RELEASES_AT_ONCE)
                        return;
                worker->release_head = (worker->release_head + 1) % RELEASES_MAX;
                worker->n_releases--;
                connection->n_active++;
                connection->n_releasing++;
                if (nbd_can_trim(connection->nbd) <= 0 ||
                    nbd_aio_trim(connection->nbd, range.length, range.offset,
                                 (nbd_completion_callback) { .callback = on_trimmed, .user_data = connection }, 0) < 0) {
                        connection->n_active--;
                        connection->n_releasing--;
                }
        }
}
