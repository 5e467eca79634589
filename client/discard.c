/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "client/batch.h"
#include "client/client.h"
#include "client/piece.h"
#include "common/clock.h"
#include "common/macro.h"

/* No deadline of our own: until the broker has answered, nobody may say what the range holds. The broker's answer is
 * bounded by its own deadline. */
static int discard(pb_client *client, const struct pb_range *range) {
        struct piece_iterator pieces = { .cursor = CURSOR(client, range, 1), .no_intent = true };
        unsigned bad;
        int r;

        if (client->role != PB_ROLE_VMM)
                return -EACCES;
        if (!is_aligned(range->gpa | range->len, PB_PAGE_SIZE))
                return -EINVAL;
        r = ranges_check(client, range, 1, &bad);
        if (r < 0)
                return r;
        return batch_ask_and_wait(client, &pieces, PB_SLOT_DISCARD, NULL, USEC_INFINITY);
}

int pb_discard(pb_client *client, uint64_t gpa, size_t len) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = discard(client, &(struct pb_range) { .gpa = gpa, .len = len, .intent = PB_WRITE });
        if (r < 0)
                return failure_record(&client->failures,
                                      &(struct failure) { FAILURE_DISCARD, r, FAILURE_AT_GPA, 0, gpa });
        return 0;
}
