/* SPDX-License-Identifier: MIT */
/*
 * Peers: processes whose mappings of guest memory are under userfaultfd. One thread a descriptor, which alone reads it,
 * registers, continues and wakes on it: those calls take the peer's mm lock, and a peer that holds that lock, or that
 * makes the descriptor block, must stop nobody else (invariant 9).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* All at once, whoever they belong to: a thread and three descriptors each, as long as the peer's process lives, however
 * many connections it has closed meanwhile. Half of them are for the vmm role, so that devices cannot lock it out. */
#define PEERS_MAX 1024u

struct ledger;
struct ledger_peer;
struct fault_note;
struct memory;
struct pager;
struct peer;
struct tally;

struct peer_options {
        uint32_t id;
        const char *name;
        bool privileged;       /* a VMM's */
        uid_t account;         /* whose it is, see account.h */
        uint64_t fault_around; /* pages; a power of two, 1: only the faulting one. 4 KiB backing only */
        struct tally *tally;   /* its client's; the peer takes a reference. NULL: none */
        struct ledger *ledger;     /* NULL: nobody carries on after us */
        struct ledger_peer *entry; /* in the ledger; released by the peer */
};

/* A reply to a call that a peer's thread answers: `reply_socket` is a duplicate that the call owns. */
struct peer_reply {
        int socket;
        uint64_t serial;
};

/* Takes `uffd`. The thread answers through `reply` once it has agreed on the API with the kernel. */
int peer_new(struct peer **ret, struct pager *pager, const struct peer_options *options, int uffd,
             struct peer_reply reply);

/* One that the broker before this one served, with the mappings that `options->entry` has: it wakes whoever waits, since
 * what was read from the descriptor is not reported again. Takes `uffd`. */
int peer_new_restored(struct peer **ret, struct pager *pager, const struct peer_options *options, int uffd);

/* Registers a mapping; answered by the thread. */
int peer_map(struct peer *peer, struct memory *memory, uint64_t address, uint64_t length, uint64_t offset,
             struct peer_reply reply);

/* A range is not mapped any more; answered by the thread. */
int peer_unmap(struct peer *peer, uint64_t address, uint64_t length, struct peer_reply reply);

/* Nothing of the memory is mapped any more. events.peer_ended says when the peer does not stand in the memory's list. */
void peer_forget_memory(struct peer *peer, struct memory *memory);

/* Unregisters everything and stops serving, at the peer's own wish; answered by the thread. */
int peer_detach(struct peer *peer, struct peer_reply reply);

/*
 * Stops serving, once the process is gone: as long as it lives it must be served, or its threads hang (if it kept a
 * duplicate of the descriptor) or are released onto zeros (if it did not). Does not wait for the thread: it may hang
 * in a lock of its peer. Returns NULL.
 */
struct peer *peer_stop(struct peer *peer);

/* Has its thread given up (peer gone, descriptor made blocking) or finished? */
bool peer_is_dead(const struct peer *peer);
const char *peer_name(const struct peer *peer);
/* TALLY_PEER_NOTES: what its threads wait for. */
const struct fault_note *peer_notes(const struct peer *peer);
struct ledger_peer *peer_entry(const struct peer *peer);

/* Pages have been published: whoever maps them may be continued before it faults. Cheap when there is no peer. */
void peers_hint(struct memory *memory, uint64_t slice, uint64_t mask);

/* Poisoned pages have been healed: faults that failed are asked for again. */
void peers_ask_again(struct memory *memory);

/* The memory is complete: its ranges are unregistered. */
void peers_release(struct memory *memory);

/* Threads of peers that still run; at exit. */
unsigned peers_running(void);
