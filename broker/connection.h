/* SPDX-License-Identifier: MIT */
/* One client's control socket, on the control thread. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "protocol/message.h"

struct broker;
struct ledger_holder;
struct ledger_peer;
struct memory;
struct peer;
struct session;
struct tally;

/* userfaultfds of one client at once: shards times regions, with some room. */
#define CONNECTION_PEERS_MAX 256u

struct connection {
        struct connection *prev, *next;
        struct broker *broker;
        int fd; /* -1: hung up; peers are left, or what it holds, until the process ends */
        int pidfd;
        sd_event_source *io, *timer, *exit;
        uid_t uid; /* who connected */
        uid_t account; /* whose descriptors are counted, see account.h */
        struct ucred credentials; /* who said HELLO */
        bool ready; /* past the handshake */
        bool restored; /* of a process that was connected to the broker before us; never had a socket */
        bool hotplug, resumed; /* it says that it understands memory that comes and goes; that it was here before */
        uint32_t given;        /* memories that it has, a bit each */
        uint32_t told;         /* ... and knows that it has: one who resumes may not have taken what is new */
        bool has_session;      /* ... so that it holds what it was given */
        bool lost;             /* it has gone without a word, and its process may still use what it was given */
        struct ledger_holder *holder; /* NULL: it holds nothing that may leave */
        uint32_t n_regions;    /* that it has been told of */
        enum pb_role role;
        char name[PB_NAME_SIZE];
        uint64_t session_id;
        struct session *session; /* for a look at its counters; NULL without a session_id */
        uint64_t id; /* for people; never used again */
        uint64_t connected_us; /* CLOCK_REALTIME; let in */
        struct tally *tally;   /* from the handshake on */
        bool announced;        /* on the bus */
        uint64_t ring_inode; /* which ring the session has; 0: none */
        struct peer *peers[CONNECTION_PEERS_MAX];
        uint32_t peer_ids[CONNECTION_PEERS_MAX];
        unsigned n_peers;
};

/* Takes `fd`, a connected SOCK_SEQPACKET. */
int connection_new(struct broker *broker, int fd);
struct connection *connection_free(struct connection *connection);

/* Says why (NULL: nothing to say) and hangs up. Peers go on being served while their process lives. */
void connection_hang_up(struct connection *connection, int error, const char *reason);

/* holders.c: nothing is left of a connection that has hung up; freed from the event loop. */
void connection_release(struct connection *connection);

/* Sends without waiting; a client that does not read its socket is hung up on: -EPIPE then. Also if it has closed, but
 * what it said before is still read. */
int connection_send(struct connection *connection, const void *message, size_t size, const int *fds, unsigned n_fds);
int connection_send_result(struct connection *connection, enum pb_message_type type, uint64_t serial, int error,
                           uint64_t value, const char *text);

/* What the client uses of what it may, on the control thread. */
struct connection_usage {
        unsigned requests, requests_max;
        uint64_t bytes, bytes_max;         /* in flight, rounded up to 256 KiB for each piece */
        unsigned descriptors, descriptors_max; /* userfaultfds that it handed over */
        unsigned waiting;                  /* requests that wait because of these limits */
        uint64_t held_back;                /* so many have waited */
};

/* handshake.c; past the handshake */
const char *connection_role_name(const struct connection *connection);

void connection_get_usage(const struct connection *connection, struct connection_usage *ret);

/* Stands for a process that was connected to the broker before us, and has peers: until it ends. Takes `pidfd`. */
int connection_restore(struct connection **ret, struct broker *broker, const struct ledger_peer *entry, int pidfd);
void connection_add_peer(struct connection *connection, struct peer *peer, uint32_t id);

/* What a process holds that was connected to the broker before us. Takes `pidfd`. */
int connection_restore_holder(struct broker *broker, struct ledger_holder *entry, int pidfd);

/* By the kernel's word, and as long as it lives. */
bool connection_is_same_process(const struct connection *a, const struct connection *b);

/* The peer with this id, if this connection has attached it, or an ended one of the same process. */
struct peer *connection_find_peer(struct connection *connection, uint32_t id);

/* Of all connections: those that are served no longer. */
void connections_drop_dead_peers(struct broker *broker);

/* handshake.c: what the client does is counted from here on. Without memory for it, it goes uncounted. */
void connection_note_arrival(struct connection *connection);
/* handshake.c: a memory that has been plugged in, with its regions. */
void connection_tell_memory(struct connection *connection, const struct memory *memory);
/* handshake.c; `ring` (or -1) came with it and is the callee's. */
void connection_hello(struct connection *connection, const struct pb_message_hello *hello, int ring);
/* calls.c: one call after the handshake; `fd` (or -1) is the callee's. -EPROTO: the client broke a rule, in `ret_reason`. */
int connection_call(struct connection *connection, const void *message, size_t size, int fd, const char **ret_reason);
