/* SPDX-License-Identifier: MIT */
/* What the client's unit tests share: a client connected to a fake broker, and calls on other threads. */
#pragma once

#include <pthread.h>

#include "client/client.h"
#include "tests/lib/fake-broker.h"
#include "tests/lib/test.h"

#define PAGE ((uint64_t) PB_PAGE_SIZE)
/* One page, to be read. */
#define RANGE(page) (&(const struct pb_range) { (page) * PAGE, PAGE, PB_READ, 0 })
#define TAKE_MS (TEST_PATIENCE_US / USEC_PER_MSEC)

/* Connects as `role` with otherwise default options; fails the test if that does not work. */
pb_client *connect_as(struct fake *fake, uint32_t role);
pb_client *connect_with(struct fake *fake, const struct pb_options *options);

/* The outcome of a connect that must fail; also asserts that `ret` was left alone. */
int connect_error(struct fake *fake, const struct pb_options *options);

#define OPTIONS(...) (&(struct pb_options) { .size = sizeof(struct pb_options), __VA_ARGS__ })

/* A call on a thread of its own. */
struct caller {
        pthread_t thread;
        pb_client *client;
        struct pb_range ranges[64];
        unsigned n;
        bool discard;
        int result;
};

/* pb_ensure() for one range, pb_ensurev() for more. */
void caller_start(struct caller *caller, pb_client *client, unsigned n, const struct pb_range *ranges);
void caller_start_discard(struct caller *caller, pb_client *client, uint64_t gpa, uint64_t len);
int caller_join(struct caller *caller);

/* Is `fd` readable now? */
bool is_readable(int fd);
/* Waits until it is; false after 10 s. */
bool wait_readable(int fd);

struct pb_counters get_counters(pb_client *client);

/* The broker dies; the next one answers, and does not serve yet. */
void fake_restart(struct fake *fake);

void fake_expect(struct fake *fake, struct fake_request *ret);
