/* SPDX-License-Identifier: MIT */
#include "tests/unit/client/support.h"

#include <poll.h>
#include <string.h>

pb_client *connect_with(struct fake *fake, const struct pb_options *options) {
        pb_client *client = NULL;
        int r = pb_connect(&client, fake->address, options);

        cr_assert_eq(r, 0, "pb_connect: %s", strerror(-r));
        cr_assert_not_null(client);
        return client;
}

pb_client *connect_as(struct fake *fake, uint32_t role) {
        return connect_with(fake, OPTIONS(.role = role));
}

int connect_error(struct fake *fake, const struct pb_options *options) {
        pb_client *const untouched = (pb_client *) (uintptr_t) 0x5a5a;
        pb_client *client = untouched;
        int r = pb_connect(&client, fake->address, options);

        cr_assert_lt(r, 0, "pb_connect succeeded");
        cr_assert_eq(client, untouched);
        return r;
}

static void *caller_run(void *userdata) {
        struct caller *caller = userdata;
        const struct pb_range *range = &caller->ranges[0];

        if (caller->discard)
                caller->result = pb_discard(caller->client, range->gpa, range->len);
        else if (caller->n == 1)
                caller->result = pb_ensure(caller->client, range->gpa, range->len, range->intent);
        else
                caller->result = pb_ensurev(caller->client, caller->ranges, caller->n);
        return NULL;
}

void caller_start(struct caller *caller, pb_client *client, unsigned n, const struct pb_range *ranges) {
        *caller = (struct caller) { .client = client, .n = n, .result = 1 };
        memcpy(caller->ranges, ranges, n * sizeof *ranges);
        cr_assert_eq(pthread_create(&caller->thread, NULL, caller_run, caller), 0);
}

void caller_start_discard(struct caller *caller, pb_client *client, uint64_t gpa, uint64_t len) {
        *caller = (struct caller) { .client = client, .discard = true, .result = 1 };
        caller->ranges[0] = (struct pb_range) { .gpa = gpa, .len = len };
        cr_assert_eq(pthread_create(&caller->thread, NULL, caller_run, caller), 0);
}

int caller_join(struct caller *caller) {
        cr_assert_eq(pthread_join(caller->thread, NULL), 0);
        return caller->result;
}

static bool poll_in(int fd, int timeout_ms) {
        struct pollfd pollfd = { .fd = fd, .events = POLLIN };

        return poll(&pollfd, 1, timeout_ms) == 1 && pollfd.revents & POLLIN;
}

bool is_readable(int fd) {
        return poll_in(fd, 0);
}

bool wait_readable(int fd) {
        return poll_in(fd, TEST_PATIENCE_US / USEC_PER_MSEC);
}

struct pb_counters get_counters(pb_client *client) {
        struct pb_counters counters = { .size = sizeof counters };

        cr_assert_eq(pb_get_counters(client, &counters), 0);
        return counters;
}

void fake_expect(struct fake *fake, struct fake_request *ret) {
        cr_assert(fake_take(fake, ret, TAKE_MS), "no request came");
}

void fake_restart(struct fake *fake) {
        fake_die(fake);
        fake_succeed(fake);
        fake_start(fake);
}
