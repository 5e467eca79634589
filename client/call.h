/* SPDX-License-Identifier: MIT */
/*
 * Calls: one message to the broker, one answer with the same serial. Knows nothing of pb_client (the preload library
 * uses it too).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/link.h"

/* A call that registers a terabyte with userfaultfd is still far below this. */
#define CALL_TIMEOUT_US 30000000ull

/* Of what is sent without waiting for the answer: lower than that of every call. */
#define CALL_SERIAL_UNAWAITED 1u

/* What the owner of a channel does when its broker ends. All of them get `userdata`. */
struct call_ops {
        /* Another one after every new connection; odd while there is none. */
        uint32_t (*get_generation)(void *userdata);
        bool (*is_lost)(void *userdata);
        void (*note_lost)(void *userdata, uint32_t generation);
        /* The broker does not want us any more. */
        void (*end)(void *userdata);
        /* MEMORY, REGION, LEAVING: takes what it wants. Under the channel's lock. `generation` is of before it was received:
         * by now somebody may have resumed the session. -EPROTO: not what it may be. */
        int (*unasked)(void *userdata, uint32_t generation, const union link_message *message, struct packet_info *info);
        /* One step towards a new connection behind the same descriptor: 0 (there is one), -EAGAIN, -ECONNRESET. */
        int (*recover)(void *userdata, uint64_t until_us);
};

/* A call whose answer may take long: its caller lets others have the channel meanwhile, and whoever reads the socket takes
 * the answer in. */
struct call_standing {
        struct call_standing *next;
        uint64_t serial;
        bool done;
        union link_message reply;
};

struct call_channel {
        int socket; /* borrowed */
        const struct call_ops *ops; /* NULL: the end of the broker is the end */
        void *userdata;
        pthread_mutex_t lock;
        uint64_t serial;
        struct call_standing *standing;
        bool gone;                   /* the broker has closed or broken the protocol: no more calls */
        bool refused;                /* it has said why */
        char farewell[PB_TEXT_SIZE]; /* in its words */
};

void call_init(struct call_channel *channel, int socket);
void call_done(struct call_channel *channel);

/*
 * Sends `message` (a struct of message.h whose header.type and header.size are set; the serial is filled in) and waits
 * for its answer of `reply_type`, or a RESULT with an error. One call at a time per channel; others wait their turn,
 * all within `timeout_us`. Answers to calls that timed out earlier are dropped.
 * Returns the error in a RESULT, -ETIMEDOUT, -ECONNRESET (broker gone), -EPROTO. `ret` is untouched on failure but for
 * RESULT: then it holds the RESULT with its text, and `ret->header.type` says so.
 *
 * If the broker ends before it has answered, the next one is asked again, with a new timeout. But a call with descriptors:
 * -ERESTART, since they may have been used.
 */
int call_exchange(struct call_channel *channel, void *message, const int *fds, unsigned n_fds, uint32_t reply_type,
                  uint64_t timeout_us, union link_message *ret);

/* The same for a call that waits for other clients: it does not keep this one's other calls from being made. `*ret_again`: it
 * has been made more than once, since the broker ended before it answered. */
int call_exchange_standing(struct call_channel *channel, void *message, uint32_t reply_type, uint64_t timeout_us,
                           union link_message *ret, bool *ret_again);

/* Takes what the broker has said unasked, without waiting. 0, -ECONNRESET, -EPROTO. */
int call_take_unasked(struct call_channel *channel);

/* For what only the holder of the lock changes. */
void call_lock_channel(struct call_channel *channel);
void call_unlock_channel(struct call_channel *channel);

/* Looks whether the broker has said why it closes. Returns `farewell`. */
const char *call_read_farewell(struct call_channel *channel);
