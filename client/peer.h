/* SPDX-License-Identifier: MIT */
/* Handing userfaultfds of this process to the broker. Knows nothing of pb_client (the preload library uses it too). */
#pragma once

#include <stdint.h>

#include "client/call.h"

/*
 * A userfaultfd of this process that covers kernel accesses, close-on-exec, O_NONBLOCK, before UFFDIO_API. `device_fd`
 * is an opened /dev/userfaultfd or -1: then the system call is asked, which needs a capability or a sysctl.
 * -EOPNOTSUPP: this kernel has none; -EPERM.
 */
int peer_new_uffd(int device_fd);

/* Hands `uffd` over. -ERESTART: the broker has ended before it said whether it took it, and there is another one now; the
 * same descriptor cannot be handed over twice. The caller keeps it open for the life of the process: the last close of a userfaultfd releases the
 * threads that wait on it onto zero pages. */
int peer_attach(struct call_channel *channel, int uffd, const char *name, uint32_t *ret_peer);

/* Has the broker register [address, address + length), a writable shared mapping of `memory` from `offset` on. Nothing
 * may touch it before this returns. All three are multiples of the memory's backing page. */
int peer_map(struct call_channel *channel, uint32_t peer, uint32_t memory, const void *address, uint64_t length,
             uint64_t offset);

/* Takes back an attach whose set-up failed half-way: everything of the peer is unregistered, so nothing may use its
 * mappings. Afterwards its userfaultfd may be closed. */
int peer_detach(struct call_channel *channel, uint32_t peer);
