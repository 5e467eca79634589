/* SPDX-License-Identifier: MIT */
/* Descriptor chains: copied out of guest memory once, then validated, then used. */
#pragma once

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#define SEGMENTS_MAX 126u             /* data segments of a request: VIRTIO_BLK_F_SEG_MAX */
#define CHAIN_MAX (SEGMENTS_MAX + 2u) /* and the header and the status byte */
#define TABLE_MAX 1024u               /* descriptors in a ring or in an indirect table */

struct segment {
        uint64_t gpa;
        uint32_t len;
};

struct chain {
        struct segment segments[CHAIN_MAX]; /* the readable ones, then the writable ones */
        unsigned n_readable;
        unsigned n_writable;
        bool too_long; /* there were more than fit; `last` is right nevertheless */
        uint64_t readable_len;
        uint64_t writable_len;
        struct segment last;     /* the last writable one: its last byte is the status */
        struct segment indirect; /* where the chain goes on; len 0: nowhere */
};

void chain_init(struct chain *chain);

/*
 * Follows the chain that begins at `head` in `table` of `n` descriptors and adds its segments. `may_indirect`: an
 * indirect descriptor may end this part. Returns 0, or -EBADMSG with the reason if the guest broke the rules so that
 * nothing after it can be trusted.
 *
 * `table` is guest memory: ensured by the caller, changed by the guest at any time.
 */
int chain_walk(struct chain *chain, const struct vring_desc *table, unsigned n, unsigned head, bool may_indirect,
               const char **ret_reason);
