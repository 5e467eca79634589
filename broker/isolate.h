/* SPDX-License-Identifier: MIT */
/*
 * Dropping privileges, in named stages, each of which can only take away:
 *
 *   open      sources, sockets, /dev/userfaultfd                       (main.c)
 *   identity  another user, no capability, no_new_privs                isolate_identity()
 *   objects   memfds, maps, threads: all made without privileges       (broker.c)
 *   seal      system-call filter, for every thread                     isolate_seal()
 */
#pragma once

#include <stdbool.h>

/* Becomes `user` (a name or a number; NULL: stays) and drops everything else. Before any thread is started: these are
 * properties of a thread. Prints what failed. */
int isolate_identity(const char *user);

/* Prints what failed. */
int isolate_seal(void);

/* Room for descriptors of `n_clients` clients, as far as the hard limit goes. */
void isolate_raise_descriptors(unsigned n_clients);
