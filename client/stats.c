/* SPDX-License-Identifier: MIT */
/* Counters, the broker's and our own, and the fill switch. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "client/client.h"
#include "common/macro.h"

/* Fills in what the caller's struct has room for; one that is larger than ours (a later header) gets zeros behind. The
 * `size` in it stays as it is. */
static void copy_out(void *ret, size_t ret_size, const void *from, size_t from_size) {
        size_t skip = sizeof(size_t);

        memset((char *) ret + skip, 0, ret_size - skip);
        memcpy((char *) ret + skip, (const char *) from + skip, min_u64(ret_size, from_size) - skip);
}

static int fail(pb_client *client, enum failure_call call, int error) {
        return failure_record(&client->failures, &(struct failure) { call, error });
}

int pb_get_counters(pb_client *client, struct pb_counters *ret) {
        struct pb_counters counters = {};
        int r = client_check(client);

        if (r < 0)
                return r;
        if (ret->size < sizeof counters)
                return fail(client, FAILURE_GET_COUNTERS, -EINVAL);
        counters.slow_calls = __atomic_load_n(&client->counters.slow_calls, __ATOMIC_RELAXED);
        counters.sleeps = __atomic_load_n(&client->counters.sleeps, __ATOMIC_RELAXED);
        counters.slices = __atomic_load_n(&client->counters.slices, __ATOMIC_RELAXED);
        counters.lost_wakes = __atomic_load_n(&client->counters.lost_wakes, __ATOMIC_RELAXED);
        counters.spins_won = __atomic_load_n(&client->counters.spins_won, __ATOMIC_RELAXED);
        copy_out(ret, ret->size, &counters, sizeof counters);
        return 0;
}

static int ask_stats(pb_client *client, struct pb_message_stats_reply *ret) {
        struct pb_message_plain message = { .header = { .type = PB_MSG_STATS, .size = sizeof message } };
        union link_message reply;
        int r;

        r = call_exchange(&client->channel, &message, NULL, 0, PB_MSG_STATS_REPLY, CALL_TIMEOUT_US, &reply);
        if (r < 0)
                return r;
        *ret = reply.stats;
        return 0;
}

int pb_get_stats(pb_client *client, struct pb_stats *ret) {
        struct pb_message_stats_reply reply;
        struct pb_stats stats;
        int r = client_check(client);

        if (r < 0)
                return r;
        /* A program that was built before there was a last field does without it. */
        r = ret->size < offsetof(struct pb_stats, pages_left_out) ? -EINVAL : ask_stats(client, &reply);
        if (r < 0)
                return fail(client, FAILURE_GET_STATS, r);
        stats = (struct pb_stats) {
                .pages_total = reply.pages_total,
                .pages_data = reply.pages_data,
                .pages_present = reply.pages_present,
                .pages_data_present = reply.pages_data_present,
                .pages_poisoned = reply.pages_poisoned,
                .pages_in_flight = reply.pages_in_flight,
                .faults_linked = reply.faults_linked,
                .faults_peer = reply.faults_peer,
                .bytes_fetched = reply.bytes_fetched,
                .clients = reply.clients,
                .peers = reply.peers,
                .complete = reply.complete,
                .fill = reply.fill,
                .sources_lost = reply.sources_lost,
                .pages_left_out = reply.pages_left_out,
        };
        copy_out(ret, ret->size, &stats, sizeof stats);
        return 0;
}

int pb_set_fill(pb_client *client, bool on) {
        struct pb_message_set_fill message = {
                .header = { .type = PB_MSG_SET_FILL, .size = sizeof message },
                .on = on,
        };
        union link_message reply;
        int r = client_check(client);

        if (r < 0)
                return r;
        r = client->role != PB_ROLE_VMM ? -EACCES : call_exchange(&client->channel, &message, NULL, 0, PB_MSG_RESULT,
                                                                  CALL_TIMEOUT_US, &reply);
        return r < 0 ? fail(client, FAILURE_SET_FILL, r) : 0;
}
