/* SPDX-License-Identifier: MIT */
/* Facts about Linux that the design stands on, one a test: what fails here on a new kernel has to be thought about. */
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/test.h"

#define PAGE ((size_t) TEST_PAGE)

/* As common/fd.h makes them: a memfd of `size` bytes; mapped shared. They fail the test if that does not work. */
int memory_new(size_t size, size_t backing_size, int seals);
void *memory_map(int fd, size_t size, int prot);

/* A thread that does one thing, which is expected to block. */
struct blocked {
        pthread_t thread;
        pid_t tid;
        long (*fn)(void *arg);
        void *arg;
        long result;
        int error; /* errno of fn() */
        int done;
};

void blocked_start(struct blocked *ret, long (*fn)(void *arg), void *arg);

/* Has it gone to sleep (in that system call; -1: whichever, or a page fault)? Waits until it has. */
bool blocked_sleeps(struct blocked *blocked, long number);

bool blocked_is_done(const struct blocked *blocked);

/* Waits for its end: false if it does not come. */
bool blocked_ends(struct blocked *blocked);
