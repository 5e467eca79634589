/* SPDX-License-Identifier: MIT */
/*
 * A peer: a child process that connects as the VMM, puts its mappings under userfaultfd and then touches them. It keeps
 * its userfaultfds until it ends, so it is never the test's own process.
 */
#pragma once

#include "tests/integration/basic/support.h"

struct peer_task {
        const struct test_broker *broker;
        const struct test_image *const *images;
        unsigned shards;
        int steps;                 /* the child's end, if the task has some */
        int (*run)(pb_client *client, const struct peer_task *task); /* 0: good */
        uint64_t page;             /* for the task */
        uint64_t n;
};

/* Attaches, runs the task, disconnects. */
pid_t peer_start(const struct peer_task *task);

/* Runs the task and fails the test if it fails. */
void peer_run(const struct peer_task *task);

/* ---- in the child ---- */

char *peer_memory(pb_client *client);

/* Tasks. */
int peer_read_everything(pb_client *client, const struct peer_task *task); /* plain loads, in order, all regions */
int peer_read_pages(pb_client *client, const struct peer_task *task);      /* task->n pages from task->page on */

/* Tells when it has begun, then as peer_read_pages(). */
int peer_tell_and_read(pb_client *client, const struct peer_task *task);

/* Is the byte there, or is it SIGBUS? */
bool peer_can_load(const volatile char *addr);
