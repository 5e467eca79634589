/* SPDX-License-Identifier: MIT */
/*
 * The object graph of one broker, and its control thread: everything that is not on the way of a fault.
 */
#pragma once

#include <pthread.h>
#include <systemd/sd-event.h>

#include "broker/memory.h"
#include "broker/options.h"
#include "broker/store.h"
#include "broker/tally.h"
#include "broker/watchdog.h"
#include "broker/working-set.h"
#include "protocol/message.h"

struct bus;
struct connection;
struct ledger;
struct pager;
struct removal;
struct session;

#define LISTENERS_MAX 8u

/* A session that the pager has given back. */
struct closed_session {
        struct closed_session *next;
        struct session *session;
        const char *reason; /* NULL: closed as asked */
};

/* What has been opened for a memory that is not made yet. */
struct memory_plan {
        struct source *source;
        struct checksums *checksums;
        uint64_t size, backing_size; /* bytes */
};

struct broker {
        const struct options *options;
        uid_t uid;     /* before --user: whose clients are let in by default */
        uid_t own_uid; /* after */
        uint64_t epoch;
        uint64_t ready_us; /* when clients were first let in; CLOCK_MONOTONIC */
        uint64_t last_session_id;
        uint32_t last_peer_id;

        struct store store;
        struct ledger *ledger; /* NULL: the supervisor keeps nothing, nobody carries on after us */
        bool ready;            /* clients may connect */
        bool resumed;          /* we carry on after another broker */

        struct memory_plan plans[PB_MEMORIES_MAX];
        struct memory *memories[PB_MEMORIES_MAX];
        unsigned n_memories;
        struct region regions[PB_REGIONS_MAX]; /* ascending by gpa */
        unsigned n_regions;
        struct removal *removals; /* hotplug.c */
        sd_event_source *grace;
        struct pager *pager;
        int record_fd, replay_fd; /* working-set.h; or -1 */
        struct working_set working_set;
        int uffd_device; /* an opened /dev/userfaultfd, or -1 */

        sd_event *event;
        sd_event_source *sweep; /* frees connections that have hung up, from the event loop */
        int listeners[LISTENERS_MAX];
        unsigned n_listeners;
        sd_event_source *accepting[LISTENERS_MAX], *accept_again; /* accept.c */
        unsigned n_accepting;
        int own_listener;   /* one of these, or -1: made by us, so that it has to be kept over a restart */
        bool listener_kept; /* it is in the store already */
        pthread_t counter; /* counts the sources' data */
        bool counting;
        pthread_t collapser; /* collapse.c */
        bool collapsing;
        struct connection *connections;
        unsigned n_connections;
        uint64_t last_connection_id;
        struct tally *tallies; /* of those who are here, and of some who have gone */
        struct latency departed[TALLY_CLASSES]; /* of all others */

        pthread_mutex_t lock; /* what the pager's thread hands over */
        struct memory *cleared[PB_MEMORIES_MAX]; /* by index */
        int cleared_result[PB_MEMORIES_MAX];
        struct closed_session *closed;
        bool completed, peers_ended, replayed;
        bool stopping;
        struct memory *lost; /* of a page that a peer waits for in vain, with ON_ERROR_STOP */
        uint64_t lost_page;
        bool given_up; /* the control thread's */
        int eventfd; /* ... and how it says so */
        struct watchdog watchdog;
        struct bus *bus; /* NULL: --bus=none */
        int notify;   /* connected to the supervisor, or -1 */
        int spare_fd; /* to send somebody away with when all others are in use */
};

/* Opens sources and sizes everything. Prints what is wrong. Privileges are still there. */
int broker_open(struct broker *broker, const struct options *options);
/* regions.c: of broker->plans. Prints what is wrong. */
int broker_make_regions(struct broker *broker);
/* listen.c */
int broker_listen(struct broker *broker);
/* accept.c: lets in who knocks at a listening socket. */
int broker_accept(struct broker *broker, int listener);
/* Makes memories and the pager; privileges are gone. Prints what is wrong. */
int broker_make(struct broker *broker);
/* What the process exits with when a page cannot be had and the VM is to be stopped for it (--on-error=stop). */
#define BROKER_EXIT_LOST 3
/* Failed while a VM hangs on it: the supervisor is to start another. 1 is what a broker fails with that never ran. */
#define BROKER_EXIT_AGAIN 4

/* Serves until SIGTERM or SIGINT: 0; or BROKER_EXIT_LOST. */
int broker_run(struct broker *broker);
void broker_done(struct broker *broker);

/* May a line that clients can cause be logged now? */
bool broker_may_log_client(void);
/* The same about those who were not let in: whoever may connect to the socket can cause that, and hides no client's line. */
bool broker_may_log_stranger(void);

/* Does this kernel attach a pidfd to messages (SO_PASSPIDFD, Linux 6.5)? */
bool broker_has_pidfds(void);

/* trouble.c. Poisoned pages of [first, first + n) of a memory become absent and may be asked for again; n 0: up to its
 * end. -ENOENT, -EINVAL; -ESTALE: the source is not what it was when it was opened, and nothing was done. */
int broker_heal(struct broker *broker, unsigned memory, uint64_t first, uint64_t n, uint64_t *ret_healed);
/* Of every memory. Healed is what can be, also with a negative result. */
int broker_heal_all(struct broker *broker, uint64_t *ret_healed);
/* pager_events.page_lost */
void broker_note_lost(void *data, struct memory *memory, uint64_t page);
/* The supervisor is told that the VM cannot go on, and the event loop ends. */
void broker_give_up(struct broker *broker, struct memory *memory, uint64_t page);
/* --heal-interval */
int broker_start_healing(struct broker *broker);

/* steer.c. `rate`: bytes per second, 0 for no limit; `client`: who wants it, NULL: an admin, by the bus. */
void broker_set_fill(struct broker *broker, bool on, uint64_t rate, const char *client);
/* What was set when the broker before this one ended. Before there is a pager. */
void broker_begin_fill(struct broker *broker, struct pager_options *pager);

struct broker_counters {
        uint64_t pages_total, pages_data, pages_present, pages_fetched, pages_poisoned, pages_left_out,
                pages_in_flight;
        uint64_t faults_linked, faults_peer, bytes_fetched;
        unsigned clients, peers, sources_lost;
        bool complete, fill;
};

void broker_count(struct broker *broker, struct broker_counters *ret);
