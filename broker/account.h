/* SPDX-License-Identifier: MIT */
/*
 * What each user makes the broker hold that outlives a connection: served userfaultfds (as long as their process lives)
 * and descriptors that hang in close(). Counted by user and not by connection or process: both can be had anew.
 *
 * From any thread. The control thread alone asks for room.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

enum account_kind {
        ACCOUNT_PEERS_VMM,    /* userfaultfds of the role vmm */
        ACCOUNT_PEERS_DEVICE, /* of the role device */
        ACCOUNT_CLOSES,       /* descriptors being closed */
        ACCOUNT_KINDS,
};

/* All whom no --allow names: whoever can make himself many users must not have a share for each. */
#define ACCOUNT_STRANGERS ((uid_t) -1)

/*
 * May `user` have one more, of `limit` in all? Only while it has fewer than are left: who comes first leaves as much
 * as it takes, and one user alone gets half.
 */
bool account_has_room(uid_t user, enum account_kind kind, unsigned limit);

void account_add(uid_t user, enum account_kind kind);
void account_remove(uid_t user, enum account_kind kind);

/* For the counters. */
unsigned account_used(uid_t user, enum account_kind kind);
unsigned account_total(enum account_kind kind);
