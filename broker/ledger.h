/* SPDX-License-Identifier: MIT */
/*
 * What the next broker must know and cannot see: a memfd that is written by us alone, kept by the supervisor, and
 * never given to a client. It may be read at any point of our code, since that is where we may be killed: every change is
 * either one store, or prepared aside and then made valid by one store.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/source.h"
#include "protocol/message.h"

#define LEDGER_PEERS_MAX 1024u
#define LEDGER_MAPPINGS_MAX 256u
#define LEDGER_MARKS_MAX 4096u
#define LEDGER_HOLDERS_MAX 4096u

struct ledger_memory {
        char name[PB_NAME_SIZE];
        uint64_t size, backing_size, source_offset; /* bytes */
        uint64_t identity[SOURCE_IDENTITY_WORDS];
};

struct ledger_region {
        uint64_t gpa, size, offset; /* bytes */
        uint32_t memory;
        uint32_t padding;
};

struct ledger_mapping {
        uint64_t address, length, offset; /* bytes */
        uint32_t memory;
        uint32_t padding;
};

struct ledger_peer {
        uint32_t id; /* 0: free; stored last */
        uint32_t privileged;
        int32_t pid;
        uint32_t uid;
        char name[PB_NAME_SIZE];
        uint32_t valid; /* which of the two tables */
        uint32_t n_mappings[2];
        uint32_t account; /* account.h */
        struct ledger_mapping mappings[2][LEDGER_MAPPINGS_MAX];
};

/* Where a memory that comes and goes stands. */
struct ledger_plug_state {
        uint32_t standing; /* enum memory_standing */
        uint32_t n_regions;
        struct pb_message_add_region regions[PB_ADD_REGIONS_MAX];
};

struct ledger_plug {
        uint32_t valid; /* which of the two */
        uint32_t source_is_done; /* nothing is read or told there any more; of every memory, whether it comes and goes or not */
        uint64_t pages_data;     /* what the source had data for, then; stored first */
        struct ledger_plug_state states[2];
};

/* Where a peer's page table holds UFFDIO_POISON: who touches that page gets SIGBUS, and no broker hears of it. */
struct ledger_marks {
        uint64_t n; /* places that have been used; those behind it hold anything */
        uint64_t pages[LEDGER_MARKS_MAX]; /* 0: free */
};

/* A session that was given memories which may leave. */
struct ledger_holder {
        uint32_t memories; /* a bit each; 0: free; stored last */
        int32_t pid;
        uint32_t uid, account, role;
        uint32_t padding;
        uint64_t since_us;   /* CLOCK_BOOTTIME; a process that began later is another one */
        uint64_t ring_inode; /* who resumes shows this ring */
        char name[PB_NAME_SIZE];
};

struct ledger_data {
        uint64_t magic;
        uint32_t version;
        uint32_t committed; /* 1: all that belongs to it is in the store too; before, nobody has been served */
        uint64_t epoch;
        uint64_t last_session_id;
        uint32_t last_peer_id;
        uint32_t fill; /* the background fill: 0 or 1 */
        uint32_t n_memories, n_regions;
        char vm[PB_NAME_SIZE];
        struct ledger_memory memories[PB_MEMORIES_MAX];
        struct ledger_region regions[PB_REGIONS_MAX];
        struct ledger_plug plugs[PB_MEMORIES_MAX];
        struct ledger_peer peers[LEDGER_PEERS_MAX]; /* sparse */
        struct ledger_marks marks[LEDGER_PEERS_MAX]; /* of the peer in the same place; sparse */
        uint64_t fill_rate;        /* its limit in bytes per second; 0: none */
        uint64_t fill_rate_option; /* what this and `fill` are on the command line */
        uint32_t fill_option, padding;
        uint32_t recording, replaying; /* 1 while a working set is, on an admin's word: that ends with its broker */
        uint32_t pluggable;       /* memories that were declared with plugged=off, a bit each */
        uint32_t holders_missing; /* 1: some did not fit */
        struct ledger_holder holders[LEDGER_HOLDERS_MAX]; /* sparse */
};

struct ledger {
        int fd, lock_fd;
        struct ledger_data *data;
        atomic_bool taken[LEDGER_PEERS_MAX]; /* by a peer's thread, which may outlive its entry */
};

/* A new one, locked. */
int ledger_new(struct ledger **ret, const char *vm);
/* The predecessor's; takes `fd`. Not locked yet. -EPROTO: not a ledger of this version. */
int ledger_open(struct ledger **ret, int fd);
/* Accepts and returns NULL. */
struct ledger *ledger_free(struct ledger *ledger);

/* -EWOULDBLOCK: another broker has it. On an open of our own, never on the one that the supervisor has a duplicate of: that
 * one would stay locked after our death. */
int ledger_lock(struct ledger *ledger);

/* NULL if all are taken. The entry becomes valid with ledger_peer_commit(). */
struct ledger_peer *ledger_peer_take(struct ledger *ledger);
/* Of a peer that the predecessor served. */
void ledger_peer_keep(struct ledger *ledger, struct ledger_peer *entry);
void ledger_peer_enter(struct ledger_peer *entry, uint32_t id);
/* It is not served any more; whoever still writes its tables may do so. */
void ledger_peer_clear(struct ledger_peer *entry);
/* Nobody writes to it any more: the place is free. */
void ledger_peer_release(struct ledger *ledger, struct ledger_peer *entry);

/* Before the mark is made. A place to be freed when it is gone; LEDGER_MARKS_MAX: there is none. By the peer's thread. */
unsigned ledger_mark_enter(struct ledger *ledger, const struct ledger_peer *entry, uint32_t memory, uint64_t page);
void ledger_mark_leave(struct ledger *ledger, const struct ledger_peer *entry, unsigned place);
/* What is in that place. False: nothing. */
bool ledger_mark_get(const struct ledger *ledger, const struct ledger_peer *entry, unsigned place, uint32_t *ret_memory,
                     uint64_t *ret_page);

/* The table that is not valid: fill it, then flip. */
struct ledger_mapping *ledger_peer_spare(struct ledger_peer *entry);
void ledger_peer_flip(struct ledger_peer *entry, unsigned n_mappings);
