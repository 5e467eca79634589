/* SPDX-License-Identifier: MIT */
/*
 * A broker inside the test's own process that does what the test says: honest by default, a liar on request, and as
 * slow as wanted. It speaks protocol/ and shares no code with broker/.
 *
 *      struct fake *fake = fake_new(&(struct fake_options) { .n_pages = { 64 } });
 *      fake_start(fake);                       the handshake, and calls, on a thread
 *      pb_connect(&client, fake->address, ...);
 *      fake_serve(fake);                       either: a thread that fetches everything that is asked for
 *      fake_take(fake, &request);              or: one request at a time, by hand
 *      fake_publish(fake, 0, 3, 1);
 *      fake_answer(fake, &request, 0);
 *      fake_free(fake);
 *
 * Page n of memory m holds fake_word(m, n) in each of its 64-bit words.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/message.h"
#include "protocol/presence.h"
#include "protocol/ring.h"
#include "protocol/session-state.h"

#define FAKE_CALLS_MAX 64u

struct fake;

/* A message that is about to be sent, for the test to spoil. Descriptors that it puts in place of others are closed
 * afterwards, the fake's own are not. */
struct fake_packet {
        uint32_t type;
        unsigned index; /* of the MEMORY or REGION */
        size_t size;    /* bytes to send; 0: not sent at all */
        unsigned n_fds;
        int fds[8];
        union {
                struct pb_message_header header;
                struct pb_message_welcome welcome;
                struct pb_message_memory memory;
                struct pb_message_region region;
                struct pb_message_session session;
                struct pb_message_plain plain;
                struct pb_message_result result;
                struct pb_message_stats_reply stats;
                char bytes[2 * PB_MESSAGE_SIZE_MAX];
        };
};

/* A call that has come in. */
struct fake_call {
        union {
                struct pb_message_header header;
                struct pb_message_hello hello;
                struct pb_message_attach_peer attach_peer;
                struct pb_message_map_peer map_peer;
                struct pb_message_detach_peer detach_peer;
                struct pb_message_set_fill set_fill;
                struct pb_message_explain explain;
                struct pb_message_heal heal;
                char bytes[PB_MESSAGE_SIZE_MAX];
        };
        int fd; /* kept until fake_free(), or -1 */
        pid_t sender; /* as the kernel says; 0: it was not asked to */
};

struct fake_options {
        uint64_t n_pages[PB_MEMORIES_MAX]; /* of each memory; the first 0 ends the list */
        uint64_t backing_size;             /* default 4096 */
        struct pb_message_region regions[PB_REGIONS_MAX]; /* default: one a memory, one after the other from gpa 0 */
        unsigned n_regions;
        bool readonly;    /* hands out the guest memory read-only, as for device-ro */
        bool uffd_device; /* hands out /dev/userfaultfd */
        /* Both may be NULL. On the control thread. */
        void (*tamper)(struct fake *fake, struct fake_packet *packet);
        /* Answers by filling in `answer` (a RESULT with error 0 to begin with); size 0: no answer. Descriptors in it
         * are closed afterwards. */
        void (*on_call)(struct fake *fake, const struct fake_call *call, struct fake_packet *answer);
        void *userdata;
};

struct fake_memory {
        int fd;
        int map_fd;
        uint64_t n_pages;
        char *addr;
        struct pb_map_header *map;
        uint32_t *present;
        uint32_t *poison;
};

struct fake {
        struct fake_options options;
        char address[100]; /* "fd:N", or a path after fake_listen() */
        int socket;       /* our end */
        int client_socket;
        int listener; /* or -1 */
        uint64_t epoch;
        struct fake_memory memories[PB_MEMORIES_MAX];
        unsigned n_memories;
        struct pb_ring *ring;
        bool has_ring; /* the client has presented it since the last fake_succeed() */
        struct pb_session_state *state;
        int ring_fd, state_fd, doorbell, completion, client_completion, epoll;
        uint64_t pending[PB_RING_READY_WORDS]; /* taken off the ring, not given to the test yet */
        pthread_t control, pager;
        bool has_control, has_pager;
        int stop; /* eventfd */
        pthread_mutex_t lock;
        struct fake_call calls[FAKE_CALLS_MAX]; /* HELLO and the first calls, in order */
        unsigned n_calls;
};

struct fake_request {
        unsigned slot;
        uint32_t sequence;
        unsigned op, flags, n_ranges;
        struct pb_slot_range ranges[PB_SLOT_RANGES];
};

struct fake *fake_new(const struct fake_options *options);
void fake_free(struct fake *fake);

/* Before fake_start(): be found at a path, in $TMPDIR. */
void fake_listen(struct fake *fake);

/* The control thread. One client. */
void fake_start(struct fake *fake);

/* The pager thread: publishes what is asked for and answers 0. */
void fake_serve(struct fake *fake);

/* Waits for the next request, like a pager that sleeps; false after `timeout_ms`. Marks it as taken. */
bool fake_take(struct fake *fake, struct fake_request *ret, int timeout_ms);

/* Bytes, bit, wake. */
void fake_publish(struct fake *fake, unsigned memory, uint64_t first_page, uint64_t n_pages);
/* The same without wake or event. */
void fake_publish_silently(struct fake *fake, unsigned memory, uint64_t first_page, uint64_t n_pages);
void fake_poison(struct fake *fake, unsigned memory, uint64_t page);

/* Outcome, completion entry and byte, event, wake. */
void fake_answer(struct fake *fake, const struct fake_request *request, int result);
/* Publishes all ranges and answers 0. */
void fake_satisfy(struct fake *fake, const struct fake_request *request);
void fake_post_completion(struct fake *fake, uint32_t slot);

/* `closed`, event, wake. */
void fake_close_session(struct fake *fake);
/* All sockets are closed, as if the process had died; but for one that listens, which a supervisor would keep. */
void fake_die(struct fake *fake);
/* After fake_die(), on one that listens: the next broker, with the same memories, new maps and session. fake_start()
 * it. */
void fake_succeed(struct fake *fake);

/* How many doorbells have rung since the last look. Not while fake_take() or fake_serve() is used. */
uint64_t fake_count_doorbells(struct fake *fake);

/* Waits until so many threads of the client sleep. */
void fake_wait_sleepers(struct fake *fake, uint32_t n);

uint64_t fake_word(unsigned memory, uint64_t page);
/* Does `addr` hold that page, every byte of it? */
bool fake_page_is_right(const void *addr, unsigned memory, uint64_t page);
