/* SPDX-License-Identifier: MIT */
/*
 * Control messages on the session's SOCK_SEQPACKET socket: fixed-size structs in host byte order, one per packet,
 * descriptors by SCM_RIGHTS. PROTOCOL.md, section "Control socket", is the contract.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PB_VERSION_MIN 1u
#define PB_VERSION_MAX 1u

#define PB_NAME_SIZE 32u  /* with its NUL */
#define PB_TEXT_SIZE 256u /* with its NUL */
#define PB_MESSAGE_FDS_MAX 4u
#define PB_MEMORIES_MAX 16u
#define PB_REGIONS_MAX 64u

/* Features. None of version 1 is optional; the words exist so that later versions can add some. A side that sees an
 * incompatible bit that it does not know refuses; a compatible one is ignored. */
/* The sender understands unasked MEMORY, REGION and LEAVING after READY: memory that comes and goes. */
#define PB_FEATURE_HOTPLUG (1ull << 0)
#define PB_FEATURES_COMPAT PB_FEATURE_HOTPLUG
#define PB_FEATURES_INCOMPAT 0ull

enum pb_message_type {
        PB_MSG_HELLO = 1,        /* client: first message; descriptor: the ring of the session that is resumed */
        PB_MSG_WELCOME = 2,      /* broker: the answer, or REFUSED */
        PB_MSG_MEMORY = 3,       /* broker: one per memory; descriptors: guest memfd, map memfd */
        PB_MSG_REGION = 4,       /* broker: one per region, ascending gpa */
        PB_MSG_SESSION = 5,      /* broker: descriptors: ring, state, doorbell, completion socket */
        PB_MSG_UFFD_DEVICE = 6,  /* broker: descriptor: an opened /dev/userfaultfd; not every broker or role */
        PB_MSG_READY = 7,        /* broker: the handshake is over */
        PB_MSG_REFUSED = 8,      /* broker: the handshake or the session ends; the reason in words */
        PB_MSG_RESULT = 9,       /* broker: answer to a call */
        PB_MSG_ATTACH_PEER = 16, /* client: descriptor: a userfaultfd of the sender; RESULT's value is the peer's id */
        PB_MSG_MAP_PEER = 17,    /* client: a mapping of a memory in that peer: register it */
        PB_MSG_DETACH_PEER = 18, /* client: takes back a set-up that failed half-way */
        PB_MSG_STATS = 19,       /* client: answered by STATS_REPLY */
        PB_MSG_STATS_REPLY = 20,
        PB_MSG_SET_FILL = 21,    /* client: role VMM */
        PB_MSG_EXPLAIN = 22,     /* client: why is this page poisoned? RESULT with error and text */
        PB_MSG_HEAL = 23,        /* client: role VMM; RESULT's value is how many pages were healed */
        PB_MSG_ADD_MEMORY = 24,    /* client: role VMM; RESULT's value is the memory's index */
        PB_MSG_REMOVE_MEMORY = 25, /* client: role VMM; RESULT once nobody uses it any more, or -EBUSY */
        PB_MSG_LEAVING = 26,       /* broker, unasked: a memory is to be released */
        PB_MSG_RELEASE = 27,       /* client: it has made its last use of a memory */
        PB_MSG_UNMAP_PEER = 28,    /* client: a range of a peer that MAP_PEER named is no longer mapped there */
        PB_MSG_TELL_MEMORY = 29,   /* client: MEMORY and REGION of a memory once more, unasked */
};

/* As PB_ROLE_* of client/pagebroker.h, whose values client/ asserts to be these. */
enum pb_role {
        PB_AS_DEVICE = 1,
        PB_AS_DEVICE_RO = 2,
        PB_AS_VMM = 3,
        PB_AS_OBSERVER = 4,
};

enum pb_hello_flags {
        PB_HELLO_NO_SESSION = 1u << 0, /* no ring: the client only attaches peers or reads counters */
};

enum pb_session_flags {
        PB_SESSION_RESUMED = 1u << 0, /* the ring is the one that came with HELLO */
};

struct pb_message_header {
        uint32_t type;
        uint32_t size;   /* of the whole message, bytes */
        uint64_t serial; /* chosen by the caller, echoed in the answer; 0 in unasked messages */
};

struct pb_message_hello {
        struct pb_message_header header;
        uint32_t version_min;
        uint32_t version_max;
        uint64_t compat;
        uint64_t incompat;
        uint64_t epoch; /* of the session that is resumed (descriptor: its ring); 0: a new one */
        uint32_t role;  /* enum pb_role */
        uint32_t flags; /* PB_HELLO_* */
        char name[PB_NAME_SIZE];
};

struct pb_message_welcome {
        struct pb_message_header header;
        uint32_t version; /* chosen: the highest that both speak */
        uint32_t role;
        uint64_t compat;
        uint64_t incompat;
        uint64_t epoch;
        uint64_t session_id;
        uint32_t n_memories;
        uint32_t n_regions;
        uint32_t broker_pid; /* as the broker sees itself; informative */
        uint32_t flags;
        char name[PB_NAME_SIZE]; /* of the VM */
};

/* Flags of MEMORY. */
enum pb_memory_flags {
        PB_MEMORY_LEAVING = 1u << 0, /* to who resumes: it is to be released, as LEAVING says it */
};

struct pb_message_memory {
        struct pb_message_header header;
        uint32_t index;
        uint32_t flags;        /* PB_MEMORY_* */
        uint64_t size;         /* bytes; 0: the memory of this index is not plugged in; no descriptors */
        uint64_t backing_size; /* bytes */
        uint64_t map_size;     /* bytes */
        uint64_t device;       /* st_dev and st_ino of the guest memfd */
        uint64_t inode;
        char name[PB_NAME_SIZE];
};

struct pb_message_region {
        struct pb_message_header header;
        uint32_t index;
        uint32_t memory;
        uint64_t gpa;    /* bytes, page-aligned */
        uint64_t size;   /* bytes, page-aligned */
        uint64_t offset; /* in the memory, bytes, page-aligned */
};

struct pb_message_session {
        struct pb_message_header header;
        uint64_t ring_size;  /* bytes */
        uint64_t state_size; /* bytes */
        uint32_t n_slots;
        uint32_t flags; /* PB_SESSION_* */
};

/* UFFD_DEVICE, READY, STATS */
struct pb_message_plain {
        struct pb_message_header header;
};

/* REFUSED, RESULT */
struct pb_message_result {
        struct pb_message_header header;
        int32_t error; /* 0 or a negative errno */
        uint32_t padding;
        uint64_t value;
        char text[PB_TEXT_SIZE];
};

struct pb_message_attach_peer {
        struct pb_message_header header;
        uint32_t flags; /* 0 */
        uint32_t padding;
        char name[PB_NAME_SIZE];
};

struct pb_message_map_peer {
        struct pb_message_header header;
        uint32_t peer; /* from ATTACH_PEER's result */
        uint32_t memory;
        uint64_t address; /* in the peer; aligned to the backing page */
        uint64_t length;  /* bytes; a multiple of the backing page */
        uint64_t offset;  /* in the memory, bytes; a multiple of the backing page */
};

struct pb_message_detach_peer {
        struct pb_message_header header;
        uint32_t peer;
        uint32_t padding;
};

struct pb_message_set_fill {
        struct pb_message_header header;
        uint32_t on; /* 0 or 1 */
        uint32_t padding;
};

struct pb_message_explain {
        struct pb_message_header header;
        uint32_t memory;
        uint32_t padding;
        uint64_t page;
};

struct pb_message_heal {
        struct pb_message_header header;
        uint32_t memory; /* UINT32_MAX: every memory, whole */
        uint32_t padding;
        uint64_t first;   /* page */
        uint64_t n_pages; /* 0: up to the end of the memory */
};

struct pb_message_add_region {
        uint64_t gpa, size, offset; /* bytes, multiples of the backing page; of memory `offset` on */
};

#define PB_ADD_REGIONS_MAX 4u

struct pb_message_add_memory {
        struct pb_message_header header;
        char name[PB_NAME_SIZE]; /* of a memory that the broker was started with */
        uint32_t n_regions;      /* 1 to PB_ADD_REGIONS_MAX */
        uint32_t padding;
        struct pb_message_add_region regions[PB_ADD_REGIONS_MAX];
};

/* RELEASE: of every memory, by a client that is about to hang up for good. */
#define PB_RELEASE_ALL UINT32_MAX

/* REMOVE_MEMORY, LEAVING, RELEASE, TELL_MEMORY */
struct pb_message_of_memory {
        struct pb_message_header header;
        uint32_t memory;
        uint32_t padding;
};

struct pb_message_unmap_peer {
        struct pb_message_header header;
        uint32_t peer;
        uint32_t padding;
        uint64_t address; /* in the peer, bytes, page-aligned */
        uint64_t length;  /* bytes */
};

struct pb_message_stats_reply {
        struct pb_message_header header;
        uint64_t pages_total;
        uint64_t pages_data;
        uint64_t pages_present;
        uint64_t pages_data_present;
        uint64_t pages_poisoned;
        uint64_t pages_in_flight;
        uint64_t faults_linked;
        uint64_t faults_peer;
        uint64_t bytes_fetched;
        uint64_t clients;
        uint64_t peers;
        uint32_t complete;
        uint32_t fill;
        uint64_t sources_lost;
        uint64_t pages_left_out; /* by the fill */
        uint64_t reserved[2]; /* zero */
};

static_assert(sizeof(struct pb_message_header) == 16, "contract");
static_assert(sizeof(struct pb_message_hello) == 88, "contract");
static_assert(sizeof(struct pb_message_welcome) == 104, "contract");
static_assert(sizeof(struct pb_message_memory) == 96, "contract");
static_assert(sizeof(struct pb_message_region) == 48, "contract");
static_assert(sizeof(struct pb_message_session) == 40, "contract");
static_assert(sizeof(struct pb_message_plain) == 16, "contract");
static_assert(sizeof(struct pb_message_result) == 288, "contract");
static_assert(sizeof(struct pb_message_attach_peer) == 56, "contract");
static_assert(sizeof(struct pb_message_map_peer) == 48, "contract");
static_assert(sizeof(struct pb_message_detach_peer) == 24, "contract");
static_assert(sizeof(struct pb_message_set_fill) == 24, "contract");
static_assert(sizeof(struct pb_message_explain) == 32, "contract");
static_assert(sizeof(struct pb_message_heal) == 40, "contract");
static_assert(sizeof(struct pb_message_add_memory) == 152, "contract");
static_assert(sizeof(struct pb_message_of_memory) == 24, "contract");
static_assert(sizeof(struct pb_message_unmap_peer) == 40, "contract");
static_assert(sizeof(struct pb_message_stats_reply) == 144, "contract");

/* The largest message of either side. */
#define PB_MESSAGE_SIZE_MAX 512u
