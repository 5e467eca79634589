/* SPDX-License-Identifier: MIT */
/*
 * Guest memory. All of it comes from the page broker; nothing here maps what the VMM sends.
 *
 * The one rule: a byte of guest memory is touched (load, store, system call) only after guest_ensure() said that its
 * page is there.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

#include "client/pagebroker.h"

#define GUEST_TABLE_MAX 8u /* regions that a front-end may name: vhost-user's limit without memory slots */
#define GUEST_REGIONS_MAX 64u

/* One wait for any number of ranges. Lives in whatever waits (a request, a queue). */
struct guest_wait {
        /* Called from the event loop when the last page is there or one failed; never inside guest_ensure(). */
        void (*done)(struct guest_wait *wait, int result);
        const struct pb_range *ranges; /* the caller's, until done */
        unsigned n_ranges;
        TAILQ_ENTRY(guest_wait) entry; /* in guest.backlog */
};

/* A region as the front-end named it. */
struct guest_mapping {
        uint64_t gpa;
        uint64_t size;
        uint64_t user;   /* its address in the front-end */
        uint64_t offset; /* in the descriptor */
};

struct guest {
        pb_client *client;
        sd_event *event; /* not owned */
        sd_event_source *source;
        struct pb_region regions[GUEST_REGIONS_MAX];
        unsigned n_regions;
        struct guest_mapping table[GUEST_TABLE_MAX];
        unsigned n_table;
        TAILQ_HEAD(, guest_wait) backlog; /* more than the library takes at once */
        uint64_t ensures;                 /* calls of guest_ensure() */
        uint64_t waited;                  /* of these, how many found an absent page */
};

int guest_open(struct guest *guest, sd_event *event, const char *address, unsigned reconnect_s);
void guest_close(struct guest *guest);

/*
 * Takes the front-end's memory table. It serves only to turn the front-end's own addresses (which rings have) into
 * guest-physical ones; the descriptors serve only to check that the VMM uses the broker's memory: -ESTALE if not.
 */
int guest_set_table(struct guest *guest, const struct guest_mapping *table, const int *fds, unsigned n);
void guest_clear_table(struct guest *guest);
int guest_user_to_gpa(const struct guest *guest, uint64_t user, uint64_t len, uint64_t *ret_gpa);

/*
 * Makes all ranges accessible. 1: they are, wait->done is not called. 0: wait->done will be called. A negative errno:
 * it failed at once. `ranges` must stay until then.
 */
int guest_ensure(struct guest *guest, struct guest_wait *wait, const struct pb_range *ranges, unsigned n);

/* Adds a range to `ranges`, or extends the last one if it ends where this one begins and has the same intent. */
void guest_range_add(struct pb_range *ranges, unsigned *n, uint64_t gpa, uint64_t len, uint32_t intent);

/* Appends [gpa, gpa + len) to `iov`: one piece per region that it touches. -EFAULT outside, -E2BIG past `max`. */
int guest_translate(struct guest *guest, uint64_t gpa, uint64_t len, struct iovec *iov, unsigned *n, unsigned max);

/* What guest_ensure() failed with, in words. */
const char *guest_explain(int error);
