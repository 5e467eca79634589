/* SPDX-License-Identifier: MIT */
/* What the integration tests share: clients in children, steps between processes, content of any range. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/connect.h"
#include "tests/lib/test.h"

/* A stream of numbers that a seed decides. The state is never 0. */
static inline uint64_t next_random(uint64_t *state) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state * 0x2545f4914f6cdd1d >> 16;
}

/* ---- usable in children and threads: no assertions ---- */

/* NULL, with a line on standard error, if it does not work. */
pb_client *child_connect(const struct test_broker *broker, uint32_t role);

/* Disconnects. False, with a line, if a wake-up was lost. */
bool child_disconnect(pb_client *client);

/* Does [gpa, gpa + length), which may span regions, hold what the images say (images[i] is memory i's)? Only looks. */
bool content_is_right(pb_client *client, const struct test_image *const images[], uint64_t gpa, uint64_t length);

/* pb_ensure(PB_READ) and content_is_right(), with a line if not. */
bool ensure_is_right(pb_client *client, const struct test_image *const images[], uint64_t gpa, uint64_t length);

/* Is every byte zero? */
bool is_zero(const void *addr, size_t length);

/* ---- steps: a process tells another that it has come so far ---- */

struct steps {
        int parent, child;
};

struct steps steps_new(void);
void steps_done(struct steps *steps);

bool step_tell(int fd);
/* False if nobody says so in time. */
bool step_await(int fd);

/* ---- in the test itself ---- */

struct pb_stats get_stats(pb_client *client);

/* Where a memory's presence map is mapped in this process. */
const struct pb_map_header *find_map(const char *memory);

struct pb_region get_region(pb_client *client, unsigned index);

/* Runs fn(args[i]) in a thread each; waits for all; fails unless all return NULL. */
void run_threads(unsigned n, void *(*fn)(void *), void *args, size_t arg_size);

/* pb_ensure(READ) in a thread of its own, to be waited for. */
struct ensure_call {
        pb_client *client;
        uint64_t gpa;
        size_t length;
        unsigned intent;
        int result;
        char reason[512]; /* pb_explain(), if it failed */
        pthread_t thread;
};

void ensure_start(struct ensure_call *ret, pb_client *client, uint64_t gpa, size_t length, unsigned intent);
int ensure_wait(struct ensure_call *call);
