/* SPDX-License-Identifier: MIT */
/*
 * A client that speaks protocol/ by itself and may break every rule of it: shares no code with client/. Nothing here
 * asserts, so that it works in children too: 0 or a negative errno.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/message.h"
#include "protocol/presence.h"
#include "protocol/ring.h"
#include "protocol/session-state.h"

#define RAW_MEMORIES_MAX 4u

struct raw {
        int socket;
        int guest[RAW_MEMORIES_MAX], map[RAW_MEMORIES_MAX];
        int ring_fd, state_fd, doorbell, completion, uffd_device; /* -1: not given */
        unsigned n_memories;
        uint64_t size[RAW_MEMORIES_MAX]; /* bytes */
        char *memory[RAW_MEMORIES_MAX];  /* NULL: none given */
        const struct pb_map_header *header[RAW_MEMORIES_MAX];
        struct pb_ring *ring;
        const struct pb_session_state *state;
        uint32_t sequence;
        int error;               /* of REFUSED */
        char text[PB_TEXT_SIZE]; /* of the last RESULT or REFUSED */
};

/* A connected socket that has said nothing yet, or a negative errno. */
int raw_socket(const char *address);

struct pb_message_hello raw_hello(uint32_t role);

/* The whole handshake. -EPIPE: hung up without a word; the error of REFUSED. */
int raw_open(struct raw *raw, const char *address, uint32_t role);
int raw_shake_hands(struct raw *raw, int socket, const struct pb_message_hello *hello);
/* The same, with the ring of a session that is to go on (hello->epoch); -1: none. */
int raw_resume(struct raw *raw, int socket, const struct pb_message_hello *hello, int ring);
void raw_close(struct raw *raw);

/* ---- ring ---- */

struct raw_push {
        uint32_t op, flags, n_ranges;
        uint64_t padding;
        struct pb_slot_range ranges[PB_SLOT_RANGES];
};

struct raw_push raw_want(uint64_t first_page, uint64_t n_pages); /* ENSURE, READ, memory 0 */

/* The steps of a push, one by one: a client can die between any two. */
void raw_write_slot(struct raw *raw, uint32_t slot, const struct raw_push *push);
void raw_set_ready(struct raw *raw, uint32_t slot);
void raw_set_summary(struct raw *raw, uint32_t slot);
void raw_ring_doorbell(struct raw *raw);
/* All of them. */
void raw_submit(struct raw *raw, uint32_t slot, const struct raw_push *push);

/* The final outcome of the slot's last push; -ETIME if it does not come, -ECONNRESET if the session is closed. */
int raw_wait_outcome(struct raw *raw, uint32_t slot);
bool raw_is_taken(const struct raw *raw, uint32_t slot);
/* raw_submit() and raw_wait_outcome() */
int raw_request(struct raw *raw, uint32_t slot, const struct raw_push *push);
bool raw_is_present(const struct raw *raw, uint64_t page);

/* ---- calls ---- */

int raw_send(struct raw *raw, const void *message, size_t size, const int *fds, unsigned n_fds);
/* Sends and waits for the answer: its error, or -EPIPE if the broker hung up instead. */
int raw_call(struct raw *raw, const void *message, size_t size, int fd, uint64_t *ret_value);
int raw_attach(struct raw *raw, int uffd, uint32_t *ret_peer);
int raw_map_peer(struct raw *raw, uint32_t peer, const void *addr, uint64_t length, uint64_t offset);
int raw_stats(struct raw *raw, struct pb_message_stats_reply *ret);
/* Waits for REFUSED and the end. False if the broker goes on. */
bool raw_is_hung_up(struct raw *raw);
