/* SPDX-License-Identifier: MIT */
/* The slow path of pb_ensure(). May run in a signal handler that interrupted anything here, a push included. */
#include <errno.h>

#include "client/batch.h"
#include "client/client.h"
#include "client/piece.h"
#include "client/wait.h"

static_assert(PB_READ == (int) PB_INTENT_READ && PB_WRITE == (int) PB_INTENT_WRITE &&
              PB_OVERWRITE == (int) PB_INTENT_OVERWRITE, "the intents go through unchanged");

/* Everything is checked before anything is asked for: a bad range leaves no trace. */
static int ensure(pb_client *client, const struct pb_range *ranges, unsigned n, struct failure *failure) {
        struct cursor cursor = CURSOR(client, ranges, n);
        struct piece_iterator pieces = { .cursor = cursor, .skip_present = true };
        struct missing missing;
        unsigned bad;
        int r;

        r = ranges_check(client, ranges, n, &bad);
        if (r < 0) {
                failure->place_kind = FAILURE_AT_GPA;
                failure->place = ranges[bad].gpa;
                return r;
        }
        if (!cursor_find_missing(&cursor, &missing))
                return 0;
        client_count(&client->counters.slow_calls);
        r = batch_ask_and_wait(client, &pieces, PB_SLOT_ENSURE, &cursor, wait_get_deadline(client));
        client_note_complete(client);
        if (!cursor_find_missing(&cursor, &missing))
                return 0; /* whatever else was said */
        if (r == -EIO)
                (void) ranges_find_poison(client, ranges, n, &missing);
        failure->place_kind = FAILURE_AT_PAGE;
        failure->memory = missing.memory;
        failure->place = missing.page;
        return r < 0 ? r : -EPROTO; /* a broker that says "done" when it is not */
}

static int ensure_call(pb_client *client, const struct pb_range *ranges, unsigned n, enum failure_call call) {
        struct failure failure = { .call = call };

        failure.error = ensure(client, ranges, n, &failure);
        return failure.error < 0 ? failure_record(&client->failures, &failure) : 0;
}

int pb_ensure_slow(pb_client *client, uint64_t gpa, size_t len, unsigned intent) {
        int r = client_check(client);

        if (r < 0)
                return r;
        return ensure_call(client, &(struct pb_range) { .gpa = gpa, .len = len, .intent = intent }, 1, FAILURE_ENSURE);
}

int pb_ensurev(pb_client *client, const struct pb_range *ranges, unsigned n) {
        int r = client_check(client);

        if (r < 0)
                return r;
        return ensure_call(client, ranges, n, FAILURE_ENSUREV);
}
