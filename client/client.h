/* SPDX-License-Identifier: MIT */
/*
 * The client object. Internal to the library.
 *
 * Two kinds of state: what connecting set up and nobody changes (no lock), and tables that threads, and signal
 * handlers that interrupted them, change side by side with single atomic operations (never a lock: a handler would wait
 * for the thread that it interrupted). Only control calls (call.h) take a mutex.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The public functions are exported, everything else is hidden. */
#pragma GCC visibility push(default)
#include "client/pagebroker.h"
#pragma GCC visibility pop

#include "client/call.h"
#include "client/failure.h"
#include "client/link.h"
#include "protocol/message.h"
#include "protocol/presence.h"
#include "protocol/ring.h"
#include "protocol/session-state.h"

#define CLIENT_PREFIX_VERSION 1u
#define CLIENT_SLICE_DEFAULT_US 20000u
#define CLIENT_SLICE_MAX_US 1000000u /* PROTOCOL.md, "Waiting" */
#define CLIENT_SPIN_DEFAULT_US 50
#define CLIENT_RECONNECT_DEFAULT_US 30000000
#define CLIENT_ADDRESS_SIZE 108u /* sun_path's */

/* Asynchronous requests that have not been reaped. As many as slots; a request may need several of them. */
#define CLIENT_REQUESTS_MAX PB_RING_SLOTS
#define CLIENT_BITMAP_WORDS PB_RING_READY_WORDS

struct attached;

struct client_memory {
        char *addr; /* NULL for an observer */
        uint64_t size;
        uint64_t backing_size;
        int fd; /* -1 for an observer */
        const struct pb_map_header *map;
        uint64_t map_size;
        const uint32_t *present;
        const uint32_t *poison;
        bool is_attached;          /* its mapping is under userfaultfd, by pb_attach_vmm() or later */
        struct attached *attached; /* userfaultfds of what came after pb_attach_vmm() */
        bool held; /* it is plugged in, and we have not released it; the map stays for ever */
        bool later; /* it came after the handshake; its regions one by one */
        bool partial; /* ... or a part of it has been released: not all of its regions need be ours */
        unsigned n_told; /* of one that came later: regions that we have been told of */
        uint64_t told[PB_ADD_REGIONS_MAX]; /* ... where */
        char name[PB_NAME_SIZE];
};

/* What is known of a slot on this side of the ring; the ring itself is never read back. Changed by the slot's owner
 * only: whoever set its bit in `busy`, or cleared its bit in `zombie` or its word of `async`. */
struct client_slot {
        uint32_t sequence;
        uint32_t request; /* of an asynchronous one: which */
        /* Of one that is not asynchronous: the client's generation in which it has been pushed. Odd: nobody knows
         * whether that push came before or after the next broker cleared the ring, so it has to be done again, and no
         * outcome counts before (model: epoch.pml TRUST_UNVERIFIED). Of an asynchronous one: in which it was harvested,
         * and in which pb_submit() was done with it. */
        uint32_t generation;
        uint32_t left;
        uint32_t op; /* enum pb_slot_op */
};

struct client_request {
        uint64_t cookie;
        int32_t result;
        uint32_t remaining; /* slots whose outcome is missing, plus one while the request is being pushed */
};

/* How the connection is made again (resume.c). But for `next_us` only for the holder of `lock`. */
struct client_resume {
        char address[CLIENT_ADDRESS_SIZE]; /* "": nothing to connect to again */
        char name[PB_NAME_SIZE];
        uint64_t limit_us;
        uint64_t epoch;
        struct link origin; /* what was said of memories and regions; no descriptors */

        uint32_t lock; /* only ever tried: its holder may be the thread that a signal handler has interrupted */
        uint64_t since_us; /* when the connection was lost; 0: it is not */
        uint64_t next_us;  /* not before */
        uint64_t hello_us; /* when HELLO was said on `link`; 0: it was not */
        unsigned tries;
        struct link link;
        char reason[PB_TEXT_SIZE]; /* why the broker does not want us; written before `dead` */
};

struct client_counters {
        uint64_t slow_calls;
        uint64_t sleeps;
        uint64_t slices;
        uint64_t lost_wakes;
        uint64_t spins_won;
};

struct pb_client {
        struct pb_prefix prefix; /* first: the inline functions read it */
        struct pb_view views[PB_REGIONS_MAX];

        uint32_t role;
        uint32_t flags; /* PB_OPT_* */
        int64_t timeout_us;
        uint32_t slice_us;
        int32_t spin_us;
        bool mapped; /* the mappings are ours to unmap */
        unsigned n_memories;
        /* Those of the handshake are ascending; what has come later stands behind them, in any order. One that has gone
         * keeps its place, with size 0. Changed under the channel's and the resume's lock, read without (plug.c). */
        unsigned n_regions, n_sorted;
        struct client_memory memories[PB_MEMORIES_MAX];
        struct link_region regions[PB_REGIONS_MAX];
        uint64_t region_added, region_leaving; /* events, a bit for each region */
        char holders[PB_TEXT_SIZE]; /* who still used a memory that was to leave: the last answer */
        uint32_t missed_new, missed_release;   /* memories that a resume has found come or still leaving, a bit each */

        /* The same numbers for life: resuming puts other files behind them. */
        int socket;
        int doorbell;
        int completion;
        int poll_fd;     /* epoll: `completion`, `leftover_fd`, `timer_fd` */
        int leftover_fd; /* eventfd: completions wait that no byte announces any more */
        int timer_fd;    /* while there is no broker: when pb_reap() shall look for one again */
        int uffd_device;
        int ring_fd;     /* shown to the next broker */
        struct call_channel channel;
        uint32_t attached; /* pb_attach_vmm() has been called */
        unsigned shards;   /* ... for so many */
        pthread_mutex_t attach_lock; /* one mapping is registered once, whoever hears of it first; before the channel's */

        struct pb_ring *ring; /* NULL without a session */
        const struct pb_session_state *state; /* as the maps: the next broker's takes this one's place at its address */

        uint32_t dead; /* the broker is gone and nobody comes after it; never back to 0 */
        /* Even: connected, each time as another. Odd: from the moment that a HELLO resumes the session until all is in
         * place. Waiters sleep on it too. */
        uint32_t generation;
        uint32_t lost; /* the generation in which somebody saw the connection gone */
        struct client_resume resume;

        uint32_t slot_event; /* changes when a slot becomes free while somebody waits for one */
        uint32_t slot_waiters;
        uint64_t completion_cursor; /* generation << 32 | head, free-running as completion_tail in the session state */
        uint64_t busy[CLIENT_BITMAP_WORDS];   /* slots that belong to somebody */
        uint64_t zombie[CLIENT_BITMAP_WORDS]; /* of these, nobody waits any more: free when the outcome is final */
        uint64_t pushing[CLIENT_BITMAP_WORDS]; /* of these, pb_submit() has not left them yet */
        struct client_slot slots[PB_RING_SLOTS];
        /* Not 0: the slot's outcome belongs to a request. Another value for each use of the slot and for each broker:
         * whoever takes it back in one exchange with the value that he has seen owns what he has seen. */
        uint64_t async[PB_RING_SLOTS];
        uint64_t request_busy[CLIENT_BITMAP_WORDS];
        uint64_t request_done[CLIENT_BITMAP_WORDS];
        struct client_request requests[CLIENT_REQUESTS_MAX];

        struct client_counters counters;
        struct failure_table failures;
};

/*
 * Everything that a client is made of, already mapped. For pb_connect(), and for a program that has broker and client
 * in one process over one mapping of each shared object (ThreadSanitizer sees races between them only then): it fills
 * this in itself.
 */
struct client_parts {
        struct pb_options options; /* complete: no defaults are filled in but name, which is not used */
        bool mapped;               /* pb_disconnect() unmaps */
        const char *address;       /* NULL: cannot be resumed */
        const struct link *link;   /* if there is an address */
        unsigned n_memories;
        unsigned n_regions;
        struct client_memory memories[PB_MEMORIES_MAX];
        struct link_region regions[PB_REGIONS_MAX];
        struct pb_ring *ring;
        const struct pb_session_state *state;
        int socket;      /* control socket, or -1: then the broker is never seen to die */
        int doorbell;    /* the client object owns the descriptors from the call's success on */
        int completion;
        int uffd_device;
        int ring_fd;
};

/* Takes over all of `parts`, or nothing on failure (-ENOMEM, -EMFILE). */
int client_new(pb_client **ret, const struct client_parts *parts);

/* Checks `options` and fills in defaults. -EINVAL. */
int client_complete_options(struct pb_options *ret, const struct pb_options *options);

/* 0, or -ECHILD: this is a child of the process that connected. Its copy of the object reads as zeros. */
static inline int client_check(const pb_client *client) {
        return client->prefix.version == CLIENT_PREFIX_VERSION ? 0 : -ECHILD;
}

static inline void client_count(uint64_t *counter) {
        (void) __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* Is the broker gone for good? */
bool client_is_dead(const pb_client *client);

void client_set_dead(pb_client *client);

static inline uint32_t client_generation(const pb_client *client) {
        return __atomic_load_n(&client->generation, __ATOMIC_SEQ_CST);
}

/* Keeps in mind what a fork's child has to close. */
void client_remember_files(pb_client *client);

/* Tells the inline prefix when every page of every memory is present. */
void client_note_complete(pb_client *client);

/* ---- plug.c ---- */

/* For call.h: what the broker says unasked. */
int client_take_unasked(void *userdata, uint32_t generation, const union link_message *message, struct packet_info *info);
/* What a resume has found: `link` shows other memories than we hold. Async-signal-safe. */
void client_note_memories(pb_client *client, const struct link *link);
/* The memories that we hold, a bit each; of these, those that may have regions which are not ours. */
uint32_t client_get_held(const pb_client *client);
uint32_t client_get_partial(const pb_client *client);
/* Tells the broker that all memory has been let go of, for good. */
void client_say_goodbye(pb_client *client);

/* ---- vmm.c ---- */

/* The mappings of one memory, if pb_attach_vmm() has been called. */
int client_attach_memory(pb_client *client, uint32_t memory);
void client_detach_memory(pb_client *client, uint32_t memory);

/* ---- region.c ---- */

/* The region that holds `gpa`, or NULL. */
const struct link_region *client_find_region(const pb_client *client, uint64_t gpa);

/* Does [gpa, gpa + len) lie in regions, without a gap? */
bool client_covers(const pb_client *client, uint64_t gpa, uint64_t len);
