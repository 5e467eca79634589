/* SPDX-License-Identifier: MIT */
/*
 * close() of what a client sent can hang for ever: a FUSE file's is a request to its server, who may be the client; the
 * last one of a TCP socket lingers as long as its sender chose; that of a userfaultfd takes its owner's mm lock. It
 * is done by a thread that nobody waits for.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Accepts -1. `account`: who sent it, see account.h. */
void closer_close(int fd, uid_t account);

/* Should something more be taken from him? Not while as many of his hang as could still be closed for others. */
bool closer_has_room(uid_t account);

/* So many hang that nobody can be let in: even who is sent away at once leaves a socket to be closed. */
bool closer_is_full(void);
