/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's descriptor store: what is kept there outlives us and is passed to the next broker (LISTEN_FDS). Names
 * begin with "pb-" and hold no ':'; other descriptors that were passed are sockets for clients.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define STORE_NAME_SIZE 64u

struct store_item {
        char name[STORE_NAME_SIZE];
        int fd; /* -1: taken */
        bool old; /* store_drop_old() is to drop it */
};

struct store {
        int notify;    /* the supervisor's socket, or -1 */
        unsigned size; /* how many descriptors he keeps; 0: none */
        unsigned used;
        struct store_item *items; /* what the predecessor left */
        unsigned n_items;
        int passed[64]; /* not ours: for clients */
        unsigned n_passed;
};

/*
 * Takes what was passed. Has the supervisor a store? $FDSTORE says how many descriptors he keeps: systemd sets it since
 * version 254, for an older one the unit does. Who only listens for READY=1 must not be sent descriptors: he may never
 * read again, and we would wait for him.
 */
int store_open(struct store *store, int notify);
/* Before that: has a broker before this one left anything, so that a VM waits for us? */
bool store_is_left(void);
void store_done(struct store *store);

/* It stays there, and is not the caller's. -1: there is none. */
int store_find(const struct store *store, const char *name);
/* Takes out the first item with that name, or that prefix. -1: there is none. */
int store_take(struct store *store, const char *name);
int store_take_prefix(struct store *store, const char *prefix, char ret_name[STORE_NAME_SIZE]);
/* The same, of an earlier life: what is taken so stays in the store until store_drop_old(). */
int store_take_old(struct store *store, const char *prefix);

/* Gives descriptors away to be kept; they stay ours too. Messages arrive in order, and what was sent arrives also if
 * we die in the next moment. -ENOSPC: full; -EAGAIN: the supervisor does not read. */
int store_keep(struct store *store, const char *name, const int *fds, unsigned n_fds);
/* All that is kept under `name`, which are `n_fds`. */
void store_drop(struct store *store, const char *name, unsigned n_fds);
/* What was taken by store_take_old(), however many lives it is from. */
void store_drop_old(struct store *store);
/* What the predecessor left and nobody took: out of the store. */
void store_drop_rest(struct store *store);

/* Waits until the supervisor has taken everything that was said. Before the filter only. */
int store_barrier(struct store *store, uint64_t timeout_us);
