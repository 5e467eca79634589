/* SPDX-License-Identifier: MIT */
/*
 * The handshake: from an address to checked descriptors. Knows nothing of pb_client, so that the preload library uses
 * it too (with PB_HELLO_NO_SESSION).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "protocol/message.h"

/* How long the whole handshake may take. A broker answers in milliseconds; a peer that accepts and says nothing must
 * not hold the caller for ever. */
#define LINK_TIMEOUT_US 10000000ull

struct link_memory {
        int fd;     /* guest memory; -1 for an observer */
        int map_fd; /* presence map; -1 for an observer */
        uint64_t size; /* 0: not plugged in; the rest is empty then */
        uint64_t backing_size;
        uint64_t map_size;
        uint64_t device; /* st_dev and st_ino of fd */
        uint64_t inode;
        uint32_t flags; /* PB_MEMORY_* */
        char name[PB_NAME_SIZE];
};

struct link_region {
        uint32_t memory;
        uint64_t gpa;
        uint64_t size;
        uint64_t offset;
};

/* The objects of the session; all -1 with PB_HELLO_NO_SESSION and for an observer. */
struct link_session {
        int ring_fd;
        int state_fd;
        int doorbell_fd;
        int completion_fd;
        uint32_t flags; /* PB_SESSION_* */
};

struct link {
        int socket;
        uint32_t role;
        uint64_t epoch;
        uint64_t session_id;
        unsigned n_memories;
        unsigned n_regions;
        int uffd_device_fd; /* an opened /dev/userfaultfd, or -1 */
        struct link_session session;
        struct link_memory memories[PB_MEMORIES_MAX];
        struct link_region regions[PB_REGIONS_MAX]; /* ascending gpa, not overlapping */
        char vm_name[PB_NAME_SIZE];
};

struct link_options {
        uint32_t role;    /* PB_ROLE_* */
        uint32_t flags;   /* PB_HELLO_* */
        const char *name; /* at most PB_NAME_SIZE - 1 bytes; NULL: the program's short name */
        uint64_t timeout_us; /* 0: LINK_TIMEOUT_US */
        uint64_t compat;     /* PB_FEATURE_* that the caller understands */
        uint64_t epoch;      /* of the session that is resumed; 0: a new one */
        int ring_fd;         /* its ring, borrowed; used if `epoch` is not 0; -1: it has none */
        char *ret_reason; /* NULL, or PB_TEXT_SIZE bytes: the broker's words when it refused, else "" */
};

/*
 * Connects to `address` (a path, or "fd:N", which is duplicated) and does the handshake. On success every descriptor
 * in `ret` has been checked by kind, seals and size, is close-on-exec and the caller's; on failure `ret` is untouched.
 * Errors: -EINVAL, -ENAMETOOLONG, -EBADF (address), connect(2)'s, -EACCES and whatever the broker refuses with,
 * -EPROTO (a rule of PROTOCOL.md broken), -EPROTONOSUPPORT, -ETIMEDOUT, -ECONNRESET, -EMFILE.
 */
int link_open(struct link *ret, const char *address, const struct link_options *options);

/*
 * The same in two steps, for somebody who must not wait for a broker that is not there yet: connects and says HELLO, then
 * takes the answers. Between the two the socket is polled for input. On failure of either, link_done().
 */
int link_start(struct link *link, const char *address, const struct link_options *options, uint64_t deadline_us);
int link_finish(struct link *link, const struct link_options *options, uint64_t deadline_us);

/* Does it show the memories of `held` (a bit each) as `other` did? Compares names, sizes and files of these memories, and
 * all their regions; of those in `partial`, `other` may lack some. And the role. */
bool link_carries_on(const struct link *link, const struct link *other, uint32_t held, uint32_t partial);

/* Ends the connection for every holder of the socket and closes all descriptors that have not been taken. */
void link_done(struct link *link);

/* The state before link_open(): nothing open. */
void link_init(struct link *link);

struct packet_info;

/* What MEMORY and REGION say, checked, and taken. Descriptors are taken out of `info`. -EPROTO. */
int link_take_memory(struct link_memory *ret, const struct pb_message_memory *message, struct packet_info *info, bool has_fds);
int link_take_region(struct link_region *ret, const struct pb_message_region *message, const struct link_memory *memory);

/* ---- used by link.c, in link-address.c and link-receive.c ---- */

int link_connect(const char *address, uint64_t deadline_us);

/* Copies a text of a message, which may lack its NUL and hold anything. `size` of both; ret is always terminated. */
void link_copy_text(char *ret, const char *text, unsigned size);

/* The error in a REFUSED or RESULT: 0 or a negative errno as is; -EPROTO for what no errno can be. */
int link_error(int32_t error);

/* What came: a whole message of a known type, its descriptors. */
union link_message {
        struct pb_message_header header;
        struct pb_message_welcome welcome;
        struct pb_message_memory memory;
        struct pb_message_region region;
        struct pb_message_session session;
        struct pb_message_plain plain;
        struct pb_message_result result;
        struct pb_message_stats_reply stats;
        struct pb_message_of_memory of_memory;
        char space[PB_MESSAGE_SIZE_MAX];
};

struct packet_info;

/* Waits for one message and checks that its size is that of its type. Does not touch the outputs on failure.
 * -ECONNRESET: the peer has closed. */
int link_receive(int socket, uint64_t deadline_us, union link_message *ret, struct packet_info *ret_info);
int link_send(int socket, uint64_t deadline_us, const void *message, const int *fds, unsigned n_fds);
