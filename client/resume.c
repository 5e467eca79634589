/* SPDX-License-Identifier: MIT */
#include "client/resume.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/completion.h"
#include "common/clock.h"
#include "common/futex.h"
#include "common/macro.h"
#include "common/packet.h"
#include "protocol/order.h"

/* Between tries: 1 ms, doubled up to this. A supervisor keeps the socket, so the first try waits in its backlog. */
#define STEP_MAX_US 32000u
/* How long connect() may wait for room in the backlog. */
#define CONNECT_US 20000u
/* A broker that has said WELCOME says the rest at once. */
#define FINISH_US (5 * USEC_PER_SEC)

/* ---- is it there? ---- */

static bool can_resume(const pb_client *client) {
        return client->resume.limit_us > 0;
}

bool client_is_dead(const pb_client *client) {
        return __atomic_load_n(&client->dead, __ATOMIC_ACQUIRE) ||
               (!can_resume(client) && client->state && order_hint_load32(&client->state->closed));
}

/* Those who sleep on `generation` shall hear of it, too. */
void client_set_dead(pb_client *client) {
        __atomic_store_n(&client->dead, 1, __ATOMIC_RELEASE);
        (void) futex_wake_all(&client->generation);
}

/* By generation, so that somebody who looked before a resume and tells after it does no harm. */
void client_note_lost(pb_client *client, uint32_t generation) {
        if (can_resume(client))
                __atomic_store_n(&client->lost, generation, __ATOMIC_SEQ_CST);
        else
                client_set_dead(client);
}

bool client_is_lost(pb_client *client) {
        uint32_t generation = client_generation(client);

        if (generation & 1 || __atomic_load_n(&client->lost, __ATOMIC_SEQ_CST) == generation)
                return true;
        if (!client->state || !order_hint_load32(&client->state->closed))
                return false;
        client_note_lost(client, generation);
        return true;
}

/* By the raw call: poll() is a cancellation point (see ring_doorbell()). */
bool client_look_after_broker(pb_client *client) {
        uint32_t generation = client_generation(client);
        struct pollfd pollfd = { .fd = client->socket, .events = POLLRDHUP };
        struct timespec now = {};
        int saved = errno;

        if (syscall(SYS_ppoll, &pollfd, 1, &now, NULL, 0) > 0)
                client_note_lost(client, generation);
        errno = saved;
        return !client_is_dead(client) && !client_is_lost(client);
}

/* ---- steps; with the lock ---- */

static bool wait_readable(int fd, uint64_t until_us) {
        uint64_t now_us = clock_now_us();
        struct timespec timeout = clock_timespec(until_us > now_us ? until_us - now_us : 0);
        struct pollfd pollfd = { .fd = fd, .events = POLLIN };

        return syscall(SYS_ppoll, &pollfd, 1, &timeout, NULL, 0) > 0;
}

/* A broker that does not want us any more says why before it hangs up; one that has died says nothing. Answers to calls
 * go down the same drain: calls are made again. */
static bool was_refused(pb_client *client) {
        union link_message message;
        struct packet_info info;

        while (link_receive(client->socket, 0, &message, &info) >= 0) {
                packet_info_done(&info);
                if (message.header.type != PB_MSG_REFUSED || message.header.serial != 0)
                        continue;
                link_copy_text(client->resume.reason, message.result.text, PB_TEXT_SIZE);
                return true;
        }
        return false;
}

static int give_up(pb_client *client) {
        link_done(&client->resume.link);
        client_set_dead(client);
        if (client->ring)
                completion_signal_leftovers(client); /* whoever polls finds out by pb_reap() */
        return -ECONNRESET;
}

/* An event loop has nothing to poll while there is no broker. */
static void arm_timer(pb_client *client, uint64_t us) {
        struct itimerspec when = { .it_value = clock_timespec(us) };

        if (client->ring)
                (void) timerfd_settime(client->timer_fd, 0, &when, NULL);
}

static int try_later(pb_client *client, uint64_t *wait_us) {
        struct client_resume *resume = &client->resume;

        *wait_us = min_u64(USEC_PER_MSEC << min_u64(resume->tries++, 10), STEP_MAX_US);
        arm_timer(client, *wait_us);
        return -EAGAIN;
}

/* The connection is gone, or `closed` says that it is about to be; then the reason may still be on its way. */
static int begin(pb_client *client, uint64_t now_us) {
        struct client_resume *resume = &client->resume;
        struct pollfd pollfd = { .fd = client->socket, .events = POLLRDHUP };
        struct timespec none = {};

        if (resume->since_us != 0)
                return 0;
        if (syscall(SYS_ppoll, &pollfd, 1, &none, NULL, 0) <= 0)
                return -EAGAIN;
        resume->since_us = now_us;
        resume->tries = 0;
        if (was_refused(client))
                return give_up(client);
        if (client->ring)
                client_park_poll_fd(client);
        return 0;
}

static struct link_options link_options(pb_client *client) {
        return (struct link_options) {
                .role = client->role,
                .flags = client->role != PB_ROLE_OBSERVER && !client->ring ? (uint32_t) PB_HELLO_NO_SESSION : 0,
                .name = client->resume.name[0] ? client->resume.name : NULL,
                .compat = PB_FEATURE_HOTPLUG,
                .epoch = client->resume.epoch,
                .ring_fd = client->ring_fd,
                .ret_reason = client->resume.reason,
        };
}

/* `generation` becomes odd before HELLO: from here on nobody can tell whether his push is seen by the next broker, which
 * clears the ring when it gets it (model: epoch.pml ODD_LATE). */
static int say_hello(pb_client *client, uint64_t now_us) {
        struct client_resume *resume = &client->resume;
        struct link_options options = link_options(client);
        int r;

        (void) __atomic_fetch_or(&client->generation, 1, __ATOMIC_SEQ_CST);
        r = link_start(&resume->link, resume->address, &options, now_us + CONNECT_US);
        if (r < 0)
                link_done(&resume->link);
        else
                resume->hello_us = now_us;
        return r;
}

static bool is_final(int error) {
        return error == -ESTALE || error == -EPROTO || error == -EACCES || error == -EPROTONOSUPPORT ||
               error == -EINVAL;
}

static int take_answer(pb_client *client) {
        struct client_resume *resume = &client->resume;
        struct link_options options = link_options(client);
        int r;

        r = link_finish(&resume->link, &options, clock_now_us() + FINISH_US);
        if (r >= 0)
                r = client_switch(client, &resume->link);
        link_done(&resume->link);
        resume->hello_us = 0;
        return r;
}

static int step(pb_client *client, uint64_t until_us, uint64_t *wait_us) {
        struct client_resume *resume = &client->resume;
        uint64_t now_us = clock_now_us();
        int r;

        if (client_is_dead(client))
                return -ECONNRESET;
        if (!client_is_lost(client))
                return 0;
        r = begin(client, now_us);
        if (r < 0)
                return r == -EAGAIN ? try_later(client, wait_us) : r;
        if (now_us - resume->since_us >= resume->limit_us)
                return give_up(client);
        if (resume->hello_us == 0 && say_hello(client, now_us) < 0)
                return try_later(client, wait_us);
        if (!wait_readable(resume->link.socket, until_us)) {
                (void) try_later(client, wait_us);
                *wait_us = 0;
                if (clock_now_us() - resume->hello_us >= LINK_TIMEOUT_US) {
                        link_done(&resume->link);
                        resume->hello_us = 0;
                }
                return -EAGAIN;
        }
        r = take_answer(client);
        if (r == 0) {
                resume->since_us = 0;
                return 0;
        }
        return is_final(r) ? give_up(client) : try_later(client, wait_us);
}

/* ---- from outside ---- */

/* No handler may interrupt the holder of the lock, and no pthread_cancel() may end it. */
static void stay_undisturbed(struct resume_lock *ret) {
        sigset_t all;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_BLOCK, &all, &ret->signals);
        (void) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &ret->cancel);
}

static void be_disturbed(const struct resume_lock *lock) {
        (void) pthread_setcancelstate(lock->cancel, NULL);
        (void) pthread_sigmask(SIG_SETMASK, &lock->signals, NULL);
}

static int step_undisturbed(pb_client *client, uint64_t until_us) {
        struct client_resume *resume = &client->resume;
        struct resume_lock lock;
        uint64_t wait_us = 0;
        int r = -EAGAIN;

        stay_undisturbed(&lock);
        if (__atomic_exchange_n(&resume->lock, 1, __ATOMIC_ACQUIRE) == 0) {
                r = step(client, until_us, &wait_us);
                __atomic_store_n(&resume->next_us, wait_us ? clock_now_us() + wait_us : 0, __ATOMIC_RELAXED);
                __atomic_store_n(&resume->lock, 0, __ATOMIC_RELEASE);
        }
        be_disturbed(&lock);
        return r;
}

/* Whoever has it takes a step and waits for nobody but a broker that is answering. */
void client_lock_resume(pb_client *client, struct resume_lock *ret) {
        stay_undisturbed(ret);
        while (__atomic_exchange_n(&client->resume.lock, 1, __ATOMIC_ACQUIRE) != 0)
                (void) poll(NULL, 0, 1);
}

void client_unlock_resume(pb_client *client, const struct resume_lock *lock) {
        __atomic_store_n(&client->resume.lock, 0, __ATOMIC_RELEASE);
        be_disturbed(lock);
}

int client_resume(pb_client *client, uint64_t until_us) {
        int saved = errno, r;

        if (client_is_dead(client))
                return -ECONNRESET;
        if (!client_is_lost(client))
                return 0;
        if (clock_now_us() < __atomic_load_n(&client->resume.next_us, __ATOMIC_RELAXED))
                return -EAGAIN;
        r = step_undisturbed(client, until_us);
        errno = saved;
        return r;
}
