/* SPDX-License-Identifier: MIT */
#include "client/call.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <utlist.h>

#include "common/clock.h"
#include "common/macro.h"
#include "common/packet.h"

void call_init(struct call_channel *channel, int socket) {
        *channel = (struct call_channel) { .socket = socket, .serial = CALL_SERIAL_UNAWAITED };
        (void) pthread_mutex_init(&channel->lock, NULL);
}

void call_done(struct call_channel *channel) {
        (void) pthread_mutex_destroy(&channel->lock);
        channel->socket = -1;
}

static int call_lock(struct call_channel *channel, uint64_t deadline_us) {
        struct timespec deadline = clock_timespec(deadline_us);

        return -pthread_mutex_clocklock(&channel->lock, CLOCK_MONOTONIC, &deadline);
}

/* Whoever has not asked to be told of memory that comes and goes (the preload library) is told all the same by nobody. */
static int take_unasked(struct call_channel *channel, uint32_t generation, const union link_message *message,
                        struct packet_info *info) {
        if (message->header.type != PB_MSG_MEMORY && message->header.type != PB_MSG_REGION &&
            message->header.type != PB_MSG_LEAVING)
                return -EPROTO;
        return channel->ops ? channel->ops->unasked(channel->userdata, generation, message, info) : -EPROTO;
}

static uint32_t get_generation(const struct call_channel *channel) {
        return channel->ops ? channel->ops->get_generation(channel->userdata) : 0;
}

static bool take_standing(struct call_channel *channel, const union link_message *message) {
        struct call_standing *standing;

        LL_FOREACH (channel->standing, standing)
                if (standing->serial == message->header.serial) {
                        standing->reply = *message;
                        standing->done = true;
                        return true;
                }
        return false;
}

/* The next message that is not an answer to a call that its caller has given up, nor to one that waits by itself. */
static int receive_answer(struct call_channel *channel, uint64_t serial, uint64_t deadline_us,
                          union link_message *ret) {
        struct packet_info info = PACKET_INFO_INIT;
        int r;

        do {
                uint32_t generation = get_generation(channel);

                r = link_receive(channel->socket, deadline_us, ret, &info);
                if (r < 0)
                        return r;
                if (ret->header.serial == 0 && ret->header.type != PB_MSG_REFUSED) {
                        r = take_unasked(channel, generation, ret, &info);
                        packet_info_done(&info);
                        if (r < 0)
                                return r;
                        continue;
                }
                /* No answer of version 1 carries descriptors. */
                if (info.n_fds > 0) {
                        packet_info_done(&info);
                        return -EPROTO;
                }
                packet_info_done(&info);
                if (ret->header.serial == 0) {
                        link_copy_text(channel->farewell, ret->result.text, PB_TEXT_SIZE);
                        channel->refused = true;
                        return -ECONNRESET;
                }
                if (take_standing(channel, ret))
                        continue;
        } while (ret->header.serial < serial || ret->header.serial == 0);
        return ret->header.serial == serial ? 0 : -EPROTO;
}

/* An error is answered by RESULT, whatever was asked. */
static bool is_answer(const union link_message *reply, uint32_t reply_type) {
        return reply->header.type == reply_type || (reply->header.type == PB_MSG_RESULT && reply->result.error != 0);
}

/* How often a call looks whether the connection it has been sent on still is the one that it waits on. */
#define LOOK_US 20000u

/* -ERESTART: somebody has resumed the session meanwhile, so nobody will answer. */
static int wait_for_answer(struct call_channel *channel, uint64_t serial, uint32_t generation, uint64_t deadline_us,
                           union link_message *ret) {
        for (;;) {
                uint64_t until_us = channel->ops ? min_u64(deadline_us, clock_now_us() + LOOK_US) : deadline_us;
                int r = receive_answer(channel, serial, until_us, ret);

                if (r != -ETIMEDOUT || until_us == deadline_us)
                        return r;
                if (get_generation(channel) != generation)
                        return -ERESTART;
        }
}

static int exchange_once(struct call_channel *channel, void *message, const int *fds, unsigned n_fds,
                         uint32_t generation, uint64_t deadline_us, union link_message *ret) {
        struct pb_message_header *header = message;
        int r, sent;

        header->serial = ++channel->serial;
        sent = link_send(channel->socket, deadline_us, message, fds, n_fds);
        if (sent < 0 && sent != -ECONNRESET)
                return sent;
        /* After a failed send the farewell may still be there to be read. */
        r = wait_for_answer(channel, header->serial, generation, deadline_us, ret);
        return sent < 0 ? sent : r;
}

/* Returns when there is a connection again. */
static int reconnect(struct call_channel *channel, uint64_t deadline_us) {
        while (clock_now_us() < deadline_us) {
                uint64_t until_us = min_u64(clock_now_us() + LOOK_US, deadline_us);
                int r = channel->ops->recover(channel->userdata, until_us);

                if (r != -EAGAIN)
                        return r;
                /* Another thread's turn, or not time yet. */
                (void) poll(NULL, 0, 1);
        }
        return -ETIMEDOUT;
}

/* What came of it, for the caller and for those after him. */
static int finish(struct call_channel *channel, int r, uint32_t reply_type, const union link_message *reply,
                  union link_message *ret) {
        if (r >= 0 && !is_answer(reply, reply_type))
                r = -EPROTO;
        if (r == -ECONNRESET || r == -EPROTO)
                channel->gone = true;
        if (channel->refused && channel->ops)
                channel->ops->end(channel->userdata);
        if (r < 0)
                return r;
        *ret = *reply;
        return reply->header.type == PB_MSG_RESULT ? link_error(reply->result.error) : 0;
}

static int exchange_locked(struct call_channel *channel, void *message, const int *fds, unsigned n_fds,
                           uint32_t reply_type, uint64_t timeout_us, uint64_t deadline_us, union link_message *ret) {
        union link_message reply;
        int r = 0;

        for (;;) {
                uint32_t generation;

                if (channel->gone)
                        return -ECONNRESET;
                generation = get_generation(channel);
                if (channel->ops && channel->ops->is_lost(channel->userdata)) {
                        r = reconnect(channel, deadline_us);
                        if (r < 0)
                                break;
                        continue;
                }
                r = exchange_once(channel, message, fds, n_fds, generation, deadline_us, &reply);
                if (r == -ECONNRESET && channel->ops && !channel->refused)
                        channel->ops->note_lost(channel->userdata, generation);
                else if (r != -ERESTART)
                        break;
                deadline_us = clock_now_us() + timeout_us;
                r = reconnect(channel, deadline_us);
                if (r >= 0 && n_fds > 0)
                        r = -ERESTART;
                if (r < 0)
                        break;
        }
        return finish(channel, r, reply_type, &reply, ret);
}

int call_exchange(struct call_channel *channel, void *message, const int *fds, unsigned n_fds, uint32_t reply_type,
                  uint64_t timeout_us, union link_message *ret) {
        uint64_t deadline_us = clock_now_us() + timeout_us;
        int r;

        r = call_lock(channel, deadline_us);
        if (r < 0)
                return r;
        r = exchange_locked(channel, message, fds, n_fds, reply_type, timeout_us, deadline_us, ret);
        (void) pthread_mutex_unlock(&channel->lock);
        return r;
}

/* ---- one that lets others have the channel while it waits ---- */

struct stander {
        struct call_channel *channel;
        struct call_standing standing;
        bool sent;
        uint32_t generation; /* that it was sent in */
};

static void stander_leave(void *arg) {
        struct stander *stander = arg;

        (void) pthread_mutex_lock(&stander->channel->lock);
        if (stander->sent)
                LL_DELETE(stander->channel->standing, &stander->standing);
        (void) pthread_mutex_unlock(&stander->channel->lock);
}

static int stander_send(struct stander *stander, void *message, uint64_t deadline_us) {
        struct call_channel *channel = stander->channel;
        struct pb_message_header *header = message;

        stander->generation = get_generation(channel);
        stander->standing.serial = header->serial = ++channel->serial;
        if (!stander->sent)
                LL_PREPEND(channel->standing, &stander->standing);
        stander->sent = true;
        return link_send(channel->socket, deadline_us, message, NULL, 0);
}

/* With the lock. 1: there is an answer; 0: not yet. */
static int stander_step(struct stander *stander, void *message, uint64_t deadline_us, bool *ret_again) {
        struct call_channel *channel = stander->channel;
        union link_message other;
        int r;

        if (stander->standing.done)
                return 1;
        if (channel->gone)
                return -ECONNRESET;
        if (channel->ops && channel->ops->is_lost(channel->userdata)) {
                r = reconnect(channel, min_u64(deadline_us, clock_now_us() + LOOK_US));
                return r == -ETIMEDOUT ? 0 : r;
        }
        if (stander->sent && stander->generation == get_generation(channel))
                /* Nobody else waits for an answer while we have the lock: takes in what is there. */
                r = receive_answer(channel, UINT64_MAX, 0, &other);
        else {
                *ret_again = stander->sent;
                r = stander_send(stander, message, min_u64(deadline_us, clock_now_us() + CALL_TIMEOUT_US));
        }
        if (stander->standing.done)
                return 1;
        if (r == -ECONNRESET && channel->ops && !channel->refused) {
                channel->ops->note_lost(channel->userdata, stander->generation);
                return 0;
        }
        return r == -ETIMEDOUT ? 0 : r;
}

int call_exchange_standing(struct call_channel *channel, void *message, uint32_t reply_type, uint64_t timeout_us,
                           union link_message *ret, bool *ret_again) {
        uint64_t deadline_us = clock_now_us() + timeout_us;
        struct stander stander = { .channel = channel };
        int r, cancel;

        *ret_again = false;
        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
        pthread_cleanup_push(stander_leave, &stander);
        for (;;) {
                r = call_lock(channel, deadline_us);
                if (r < 0)
                        break;
                r = stander_step(&stander, message, deadline_us, ret_again);
                if (r == 0 && clock_now_us() >= deadline_us)
                        r = -ETIMEDOUT;
                if (r != 0) {
                        r = finish(channel, r, reply_type, &stander.standing.reply, ret);
                        (void) pthread_mutex_unlock(&channel->lock);
                        break;
                }
                (void) pthread_mutex_unlock(&channel->lock);
                (void) pthread_setcancelstate(cancel, NULL);
                (void) poll(&(struct pollfd) { .fd = channel->socket, .events = POLLIN }, 1, LOOK_US / 1000);
                (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        }
        pthread_cleanup_pop(1);
        (void) pthread_setcancelstate(cancel, NULL);
        return r;
}

int call_take_unasked(struct call_channel *channel) {
        union link_message message;
        int r = 0;

        (void) pthread_mutex_lock(&channel->lock);
        /* A deadline in the past: takes what is queued and never waits. No serial is that large. */
        while (r == 0 && !channel->gone)
                r = receive_answer(channel, UINT64_MAX, 0, &message);
        (void) pthread_mutex_unlock(&channel->lock);
        return r == -ETIMEDOUT ? 0 : r;
}

void call_lock_channel(struct call_channel *channel) {
        (void) pthread_mutex_lock(&channel->lock);
}

void call_unlock_channel(struct call_channel *channel) {
        (void) pthread_mutex_unlock(&channel->lock);
}

const char *call_read_farewell(struct call_channel *channel) {
        union link_message message;

        (void) pthread_mutex_lock(&channel->lock);
        /* A deadline in the past: takes what is queued and never waits. No serial is that large. */
        while (!channel->gone)
                if (receive_answer(channel, UINT64_MAX, 0, &message) < 0)
                        break;
        (void) pthread_mutex_unlock(&channel->lock);
        return channel->farewell;
}
