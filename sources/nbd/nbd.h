/* SPDX-License-Identifier: MIT */
/*
 * pagebroker-nbd: reads an NBD export for a broker (protocol/helper.h, PROTOCOL.md "Source helpers"). One thread has the
 * broker's words and every connection in one poll(); another one only connects. Reads go into the shared buffers, never into
 * guest memory.
 *
 *   main.c        command line, privileges; starts the worker again when it crashes
 *   worker.c      the loop; the broker's words; reads: queued, under way, answered
 *   connection.c  a libnbd handle: connect, prove the identity, serve, die, wait, connect again
 *   connector.c   the thread that resolves names and connects
 *   identity.c    what makes an export the one that was opened
 *   allocation.c  base:allocation into the map of zero pages
 *   release.c     trims what the broker has installed; the end, when that is everything
 */
#pragma once

#include <libnbd.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/helper.h"

#define CONNECTIONS_MAX 16u
#define CONNECTION_DEPTH 64u /* requests in flight */
#define SAMPLES_MAX 64u
#define SAMPLE_BYTES 4096u

struct nbd_options {
        const char *vm;
        const char *user; /* NULL: stays */
        char *uri;        /* without the fragment */
        unsigned connections;
        unsigned samples;
        bool release;
        bool seccomp;
        int log_level;
};

enum connection_state {
        CONNECTION_DOWN,       /* until connection->at_us */
        CONNECTION_RESOLVING,  /* its handle is the connector's */
        CONNECTION_CONNECTING, /* until at_us at most; handshake included */
        CONNECTION_SAMPLING,   /* reads what proves its identity; until at_us */
        CONNECTION_READY,
};

/* Who has the handle. */
enum connecting {
        CONNECTING_IDLE,
        CONNECTING_WANTED, /* the connector */
        CONNECTING_DONE,
};

struct worker;
struct read;

struct connection {
        struct worker *worker;
        unsigned index;
        enum connection_state state;
        struct nbd_handle *nbd;
        _Atomic enum connecting connecting;
        char connect_error[256]; /* with CONNECTING_DONE: "": none */
        uint64_t at_us;      /* when the state ends by itself */
        uint64_t back_off_us;
        uint64_t heard_us;   /* the last answer to a read */
        unsigned n_active;   /* requests in flight */
        uint8_t *samples;
        unsigned n_samples;  /* under way */
        unsigned n_releasing;
        bool sample_failed;
        bool told;           /* its failure has been logged */
};

struct read {
        struct read *prev, *next; /* in worker->todo */
        struct worker *worker;
        struct connection *connection; /* where it is under way; NULL: in todo, or free */
        unsigned slot;
        uint64_t offset;
        uint32_t length;
        uint64_t seen;    /* bytes that the answer has brought */
        uint64_t since_us; /* on its connection */
        unsigned n_lost;  /* connections that died under it */
        bool busy, forgotten;
};

struct range {
        uint64_t offset, length; /* bytes */
};

#define RELEASES_MAX 4096u
#define RELEASES_AT_ONCE 16u /* of a connection */

struct trim {
        struct worker *worker;
        struct connection *connection; /* NULL: free */
        struct range range;
};

struct worker {
        const struct nbd_options *options;
        int socket, wake;
        struct pb_helper_memory *memory; /* NULL until the broker has made it */
        uint8_t *buffers;
        uint32_t *zero_map;
        uint64_t size; /* bytes */
        unsigned depth;
        char identity[PB_HELPER_TEXT_SIZE]; /* "": the first connection makes it */
        char error[PB_HELPER_TEXT_SIZE];    /* why the last connection failed */
        bool opened, changed, wake_needed, end;

        struct read reads[PB_HELPER_SLOTS];
        struct read *todo;
        struct connection connections[CONNECTIONS_MAX];
        unsigned n_connections; /* in use: 1 until it is known that the server takes more */
        sem_t connector_started, connector_wanted;
        int connector_wake; /* eventfd: it is done with some */

        uint64_t allocation_at; /* bytes: what is known up to there */
        bool allocation_busy, allocation_done;

        struct range releases[RELEASES_MAX]; /* a ring */
        unsigned release_head, n_releases;
        struct trim trims[CONNECTIONS_MAX * RELEASES_AT_ONCE]; /* under way */
        unsigned n_trims;

        bool finishing;           /* the broker has everything */
        struct range rest;        /* of that: not trimmed yet */
        uint64_t finish_until_us; /* if the server says nothing */
};

/* worker.c. Returns the exit status of the process. */
int worker_run(const struct nbd_options *options);
/* The first connection is open and its identity known. */
void worker_opened(struct worker *worker, struct connection *connection, const char *identity);
void worker_connect_others(struct worker *worker, const struct connection *connection);

/* connection.c */
void connection_start(struct connection *connection);
/* Closes it; what was under way is queued again. */
void connection_fail(struct connection *connection, const char *why);
/* `revents` of poll(); looks at deadlines and the handshake, too. */
void connection_step(struct connection *connection, short revents, uint64_t now_us);
bool connection_is_ready(const struct connection *connection);
struct connection *connection_pick(struct worker *worker);

/* connector.c. Started before the filter; pushed are handles that are set up. */
int connector_start(struct worker *worker);
void connector_push(struct connection *connection);
bool connector_is_done(struct connection *connection);
void connector_hear(struct worker *worker);

/* read.c */
void reads_take(struct worker *worker);
/* Of a worker that has crashed. */
void reads_inherit(struct worker *worker);
void reads_start(struct worker *worker);
void reads_requeue(struct connection *connection);
void reads_expire(struct worker *worker, uint64_t now_us, uint64_t *next_us);
void read_answer(struct read *read, int result);
/* The server went away, or is going: another connection may do better. */
bool is_lost(int error);

/* identity.c. All return 0, a negative errno, or 1: the samples are not complete yet. */
int identity_start(struct connection *connection);
int identity_get(struct connection *connection, char ret[PB_HELPER_TEXT_SIZE]);

/* allocation.c */
void allocation_step(struct worker *worker);
void allocation_lost(const struct connection *connection);

/* release.c */
void release_add(struct worker *worker, uint64_t offset, uint64_t length);
void release_step(struct worker *worker);
/* What was under way on it is trimmed again. */
void releases_requeue(struct connection *connection);
/* Has the broker said that it has everything, and does the server know? Then the worker is to end. */
void finish_step(struct worker *worker);
