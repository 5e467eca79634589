/* SPDX-License-Identifier: MIT */
/*
 * An NBD export has no inode number. What it has: a size, a name, a description, and its content. A few pages of that,
 * spread over the export, are read on every new connection before anything else is, and must be the same as on the first.
 */
#include <errno.h>
#include <gnutls/crypto.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"
#include "sources/nbd/nbd.h"

static uint64_t sample_count(const struct connection *connection, uint64_t size) {
        return min_u64(connection->worker->options->samples, size / SAMPLE_BYTES);
}

static int on_sampled(void *data, int *error) {
        struct connection *connection = data;

        connection->n_samples--;
        if (*error)
                connection->sample_failed = true;
        return 1;
}

int identity_start(struct connection *connection) {
        int64_t size = nbd_get_size(connection->nbd);
        uint64_t n;

        if (size < 0)
                return -EPROTO;
        n = sample_count(connection, (uint64_t) size);
        free(connection->samples);
        connection->samples = calloc(SAMPLES_MAX, SAMPLE_BYTES);
        if (!connection->samples)
                return -ENOMEM;
        connection->sample_failed = false;
        connection->n_samples = 0;
        for (uint64_t i = 0; i < n; i++) {
                /* In the middle of each of n parts: the ends are often empty. */
                uint64_t offset = align_down((uint64_t) size / n * i + (uint64_t) size / n / 2, SAMPLE_BYTES);

                connection->n_samples++;
                if (nbd_aio_pread(connection->nbd, connection->samples + i * SAMPLE_BYTES, SAMPLE_BYTES, offset,
                                  (nbd_completion_callback) { .callback = on_sampled, .user_data = connection }, 0) < 0)
                        return -EIO;
        }
        return 0;
}

static void take_text(char *ret, size_t size, char *text) {
        (void) snprintf(ret, size, "%s", text ?: "");
        for (char *p = ret; *p; p++)
                if ((unsigned char) *p < 32 || *p == 127)
                        *p = '?';
        free(text);
}

int identity_get(struct connection *connection, char ret[PB_HELPER_TEXT_SIZE]) {
        char name[256], description[256], hex[65];
        uint8_t hash[32];
        int64_t size = nbd_get_size(connection->nbd);

        if (connection->n_samples > 0)
                return 1;
        if (connection->sample_failed || size < 0)
                return -EIO;
        take_text(name, sizeof name, nbd_get_canonical_export_name(connection->nbd));
        take_text(description, sizeof description, nbd_get_export_description(connection->nbd));
        if (gnutls_hash_fast(GNUTLS_DIG_SHA256, connection->samples, SAMPLES_MAX * SAMPLE_BYTES, hash) < 0)
                return -EIO;
        for (unsigned i = 0; i < sizeof hash; i++)
                (void) snprintf(hex + 2 * (size_t) i, 3, "%02x", hash[i]);
        memset(ret, 0, PB_HELPER_TEXT_SIZE); /* it is compared, and shown, as text */
        (void) snprintf(ret, PB_HELPER_TEXT_SIZE, "size %" PRId64 ", name '%s', description '%s', %" PRIu64 " samples %s", size,
                        name, description, sample_count(connection, (uint64_t) size), hex);
        free(connection->samples);
        connection->samples = NULL;
        return 0;
}
