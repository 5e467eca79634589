/* SPDX-License-Identifier: MIT */
/*
 * A broker that carries on where another one was killed: what it finds in the supervisor's store, in which order it takes
 * it over, and what it leaves there for the next one. docs/ARCHITECTURE.md, "Restart".
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct ledger_peer;
struct peer;

/* Waits for the predecessor's end, checks that we serve the same memories, and sets the epoch. Prints what is wrong. */
/* Of memory `i`, while its source has not been opened: 1 if nothing will be read of that any more, because the broker before
 * this one had all of it and what read it had ended; then the plan has a size and a source that is none. */
int restart_take_source(struct broker *broker, unsigned i);

int restart_begin(struct broker *broker);

/* Is that the epoch of a broker whose memories we have: an earlier one, or ours? */
bool restart_carries_on(const struct broker *broker, uint64_t epoch);

/* The guest memory of memory `index`, or -1: a new one is to be made. */
int restart_take_memory(struct broker *broker, unsigned index);
/* Sets the bits that the predecessors' maps have. */
int restart_take_bits(struct broker *broker, unsigned index);

/* Gives the supervisor what belongs to this epoch, then takes away what belonged to the last one. */
int restart_commit(struct broker *broker);

/* Peers of the predecessor: their threads start. The pager runs already. */
int restart_take_peers(struct broker *broker);

/* Makes a peer that is about to be served known to the next broker. `*ret_entry` stays NULL if there will be none. */
int restart_enter_peer(struct broker *broker, uint32_t id, const char *name, bool privileged, int pid, uint32_t uid,
                       uint32_t account, int pidfd, int uffd, struct ledger_peer **ret_entry);
/* Its set-up failed: nobody will know it. Accepts NULL. */
void restart_leave_peer(struct broker *broker, struct ledger_peer *entry);
/* It is served no longer. */
void restart_forget_peer(struct broker *broker, const struct peer *peer);
