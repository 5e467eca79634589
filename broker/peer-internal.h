/* SPDX-License-Identifier: MIT */
/* What the files of a peer's thread share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "broker/memory.h"
#include "broker/peer.h"
#include "broker/request.h"
#include "broker/tally.h"
#include "common/clock.h"
#include "common/log.h"
#include "protocol/message.h"

#define PEER_MAPPINGS_MAX 256u
/* Faults that wait at once: one a thread of the peer. A peer with more threads than this waits for its own. */
#define PEER_FAULTS_MAX 4096u
#define PEER_HINTS_MAX 256u
/* Calls that wait for the thread, which may hang in the peer's mm lock. */
#define PEER_COMMANDS_MAX 64u
#define PEER_AROUND_MAX 32u
/* Pages of a peer that UFFDIO_POISON has marked: remembered, because the mark must go when the page is healed. Threads that
 * meet more of them wait instead. */
#define PEER_MARKED_MAX 4096u
/* A poisoned page is looked at again so often: it may have been healed. So is one that could not be backed. */
#define FAULT_AGAIN_US (200 * USEC_PER_MSEC)

struct peer_mapping {
        struct memory *memory;
        uint64_t address;
        uint64_t length;
        uint64_t offset;
};

struct peer_fault {
        struct request request;
        struct peer *peer;
        struct memory *memory;
        uint64_t first_page; /* of the backing page */
        uint64_t again_us;   /* failed: when to ask again */
        uint64_t since_ns;   /* read from the userfaultfd */
        struct fault_note *note; /* NULL: too many wait */
        bool marked;         /* nobody waits: who touches it gets SIGBUS */
        unsigned mark_place; /* of the ledger; LEDGER_MARKS_MAX: none */
        struct peer_fault *prev, *next;
};

struct peer_hint {
        struct memory *memory;
        uint64_t slice, mask;
};

enum peer_command_kind {
        PEER_COMMAND_API,
        PEER_COMMAND_MAP,
        PEER_COMMAND_DETACH,
        PEER_COMMAND_UNMAP,
        PEER_COMMAND_FORGET, /* a memory; nobody is answered */
};

struct peer_command {
        struct peer_command *next;
        enum peer_command_kind kind;
        struct peer_mapping mapping;
        struct peer_reply reply;
};

struct peer {
        atomic_uint references;
        struct pager *pager;
        struct driver driver;
        uint32_t id;
        char name[PB_NAME_SIZE];
        struct request_origin origin;
        uint64_t fault_around;
        bool privileged;
        uid_t account;
        struct tally *tally;
        struct fault_note notes[TALLY_PEER_NOTES];
        bool restored; /* served by the broker before this one */
        struct ledger *ledger;
        struct ledger_peer *entry; /* NULL: none */
        int uffd;
        atomic_bool stop, dead;
        atomic_bool healed;  /* pages of some memory were: ask at once */
        atomic_bool release; /* some memory is complete */

        struct peer_mapping mappings[PEER_MAPPINGS_MAX]; /* the thread's */
        unsigned n_mappings;
        struct peer_fault *faults;  /* being fetched */
        struct peer_fault *failed;  /* to be asked for again */
        struct request *ready;
        unsigned n_faults; /* without marked ones */
        unsigned n_marked;
        struct peer_hint around[PEER_AROUND_MAX]; /* neighbours of served faults, when there is time */
        unsigned n_around;

        pthread_mutex_t lock; /* hints and commands; after peers_lock */
        struct peer_hint hints[PEER_HINTS_MAX];
        unsigned n_hints;
        bool hints_wanted; /* the thread sleeps without a look at the hints: wake it */
        struct peer_command *commands;
        atomic_uint n_commands;
        struct log_limit limit; /* of lines that the peer can cause */
};

static inline uint64_t peer_backing_pages(const struct memory *memory) {
        return memory->backing_size / PB_PAGE_BYTES;
}

static inline bool memory_is_complete(const struct memory *memory) {
        return atomic_load_explicit(&memory->pages_present, memory_order_acquire) >= memory->n_pages;
}

/* No longer served, and why. */
void peer_gone(struct peer *peer, const char *why);

/* peer-faults.c; those that return true did something. */
bool peer_read_faults(struct peer *peer);
/* Poisoned, or no memory to back them: once more, now and then. */
bool peer_ask_again(struct peer *peer);
/* Invariant 7: every bit of the backing page is set. Whoever waits is woken in any case; negative: not mapped everywhere. */
int peer_resolve(struct peer *peer, struct memory *memory, uint64_t first_page);
/* Requests that came back: answered, or issued further. */
bool peer_run_inbox(struct peer *peer);
void peer_forget_faults(struct peer *peer);
/* Those that wait to be asked for again; what is under way comes to its end. */
void peer_forget_failed(struct peer *peer, const struct memory *memory);

void fault_free(struct peer_fault *fault, bool answered);
void fault_unnote(struct peer_fault *fault, bool answered);
uint64_t fault_n_pages(const struct peer_fault *fault);

/* peer-marks.c */
void fault_mark(struct peer_fault *fault);
/* The page is there, or not mapped any more. Not when the broker stops: the next one must know. */
void fault_leave_mark(struct peer_fault *fault);
/* The memory is complete: marks go before its userfaultfd does, or they would stay for ever. False: not all are gone. */
bool peer_clear_marks(struct peer *peer, struct memory *memory);
/* Those of the broker before this one. False: no memory. */
bool peer_restore_marks(struct peer *peer);

/* peer.c */
/* To, and from, the peers that the memory tells of its pages. False: its places are taken. */
bool peer_list(struct peer *peer, struct memory *memory);
void peer_unlist(struct peer *peer, struct memory *memory);
void peer_forget_range(struct peer *peer, uint64_t address, uint64_t length);
void peer_commit(struct peer *peer); /* the mappings, for the next broker */

/* peer-commands.c */
int peer_push_command(struct peer *peer, const struct peer_command *command);
bool peer_run_commands(struct peer *peer);
/* Nobody will carry them out. */
void peer_refuse_commands(struct peer *peer);

/* peer-unmap.c */
/* If nothing of it is mapped any more. */
void peer_leave_memory(struct peer *peer, struct memory *memory);
int peer_command_unmap(struct peer *peer, const struct peer_mapping *range, const char **ret_text);
int peer_command_forget(struct peer *peer, struct memory *memory);

/* peer-hints.c */
bool peer_serve_around(struct peer *peer);
bool peer_run_hints(struct peer *peer);

/* peer-continue.c */

/* Maps [page, page + n) wherever the peer has them, all present; the first `n_faulting` are what a thread waits for:
 * these end with CONTINUE or WAKE in any case. 0; -EAGAIN: try again later; -ENOMEM: one of these was only woken; -ESRCH: the
 * peer is gone. */
int peer_continue(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n, uint64_t n_faulting);

/* Wakes who waits for [page, page + n) without mapping it: they fault again. */
void peer_wake(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n);

/* UFFDIO_POISON of [page, page + n), where the peer has nothing mapped. 0 if every mapping of it is marked. */
int peer_poison(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n);

/* Wakes everybody, everywhere. */
void peer_wake_all(struct peer *peer);

int peer_api(struct peer *peer);
int peer_register(struct peer *peer, const struct peer_mapping *mapping);
/* Threads that wait there fault again. */
void peer_wake_range(struct peer *peer, uint64_t address, uint64_t length);
void peer_unregister(struct peer *peer, uint64_t address, uint64_t length, uint64_t backing_size);
