/* SPDX-License-Identifier: MIT */
/* A broker whose source fails as a test says, and the call that heals. */
#pragma once

#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

#define FAILURE_PAGES 1024u

struct failure {
        struct test_image image;
        const struct test_image *images[1];
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client; /* a VMM */
};

/* --fill=off --source-retries=0 come first; `more` goes to --memory. */
void failure_start(struct failure *ret, const char *more, const char *option, const char *option2);
/* The two halves of it: what a broker that fetches by itself must not have got is broken in between. */
void failure_start_source(struct failure *ret);
void failure_start_broker(struct failure *f, const char *more, const char *option, const char *option2);
/* The same under a supervisor, which starts the next broker when this one is killed. */
void failure_start_supervised(struct failure *ret, const char *more, const char *option);
void failure_stop(struct failure *f);

/* Reads of this page fail from now on. */
void failure_break(struct failure *f, uint64_t page);

/* As a client in `role`: what HEAL answers, and how many pages it healed. */
int failure_heal_as(struct failure *f, uint32_t role, uint32_t memory, uint64_t first, uint64_t n, uint64_t *ret_healed);

/* Of memory 0; fails the test if it does not work. */
uint64_t failure_heal(struct failure *f, uint64_t first, uint64_t n);

bool failure_page_is_right(struct failure *f, uint64_t page);
