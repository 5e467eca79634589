/* SPDX-License-Identifier: MIT */
/* The broker ends, and there is no next one, or one that is none, or one that dies at once; calls, handlers, children. */
#include "tests/unit/client/resuming.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

/* ---- no next broker ---- */

TEST(successor, gives_up_after_its_limit) {
        start_with(&(struct fake_options) { .n_pages = { 4096 } },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000, .reconnect_us = 30000));
        fake_publish(fake, 0, 3, 1);
        cr_assert_eq(pb_submit(client, RANGE(9), 1, 77), 0);
        fake_die(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        assert_ensured(3);
        cr_assert_eq(pb_prefetch(client, 8 * PAGE, PAGE), -ECONNRESET);
        for (struct pb_completion completion = {}; completion.cookie != 77;) {
                cr_assert(wait_readable(pb_get_fd(client)));
                if (pb_reap(client, &completion, 1) == 1)
                        cr_assert_eq(completion.result, -ECONNRESET);
        }
        cr_assert_eq(pb_reap(client, &(struct pb_completion) {}, 1), -ECONNRESET);
        /* For good: a next one that comes later is not looked for. */
        fake_succeed(fake);
        fake_start(fake);
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert_eq(pb_get_stats(client, &(struct pb_stats) { .size = sizeof(struct pb_stats) }), -ECONNRESET);
        stop();
}

TEST(successor, can_be_switched_off) {
        start_with(&(struct fake_options) { .n_pages = { 4096 } },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000, .reconnect_us = -1));
        restart();
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert_eq(fake->n_calls, 1);
        stop();
}

TEST(successor, a_timeout_ends_a_wait_without_a_broker) {
        start_with(&(struct fake_options) { .n_pages = { 4096 } },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000, .timeout_us = 30000));
        fake_die(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ETIMEDOUT);
        fake_succeed(fake);
        fake_start(fake);
        fake_serve(fake);
        client->timeout_us = 0;
        assert_ensured(8);
        stop();
}

TEST(successor, options_of_an_earlier_header_are_taken) {
        struct pb_options options = { .size = offsetof(struct pb_options, reconnect_us), .role = PB_ROLE_DEVICE };

        start_with(&(struct fake_options) { .n_pages = { 4096 } }, &options);
        cr_assert_eq(client->resume.limit_us, 30000000);
        options = (struct pb_options) { .size = sizeof options, .role = PB_ROLE_DEVICE, .reconnect_us = -2 };
        cr_assert_eq(connect_error(fake, &options), -EINVAL);
        stop();
}

/* ---- a next broker that is none ---- */

enum lie {
        LIE_NONE,
        LIE_OTHER_MEMORY,
        LIE_FEWER_REGIONS,
        LIE_MOVED_REGION,
        LIE_NEW_SESSION,
        LIE_STALE,
};

static enum lie lie;

static void lie_when_resumed(struct fake *f, struct fake_packet *packet) {
        if (f->epoch == 1)
                return;
        if (lie == LIE_STALE && packet->type == PB_MSG_WELCOME) {
                packet->size = sizeof packet->result;
                packet->result = (struct pb_message_result) {
                        .header = { .type = PB_MSG_REFUSED, .size = sizeof packet->result },
                        .error = -ESTALE,
                        .text = "another snapshot",
                };
        } else if (lie == LIE_FEWER_REGIONS && packet->type == PB_MSG_WELCOME)
                packet->welcome.n_regions = 1;
        else if (lie == LIE_FEWER_REGIONS && packet->type == PB_MSG_REGION && packet->index == 1)
                packet->size = 0;
        else if (lie == LIE_MOVED_REGION && packet->type == PB_MSG_REGION && packet->index == 1)
                packet->region.gpa += PAGE;
        else if (lie == LIE_NEW_SESSION && packet->type == PB_MSG_SESSION)
                packet->session.flags = 0;
        else if (lie == LIE_OTHER_MEMORY && packet->type == PB_MSG_MEMORY && packet->index == 1) {
                packet->fds[0] = dup(f->memories[0].fd);
                packet->memory.inode--;
        }
}

/* Refused for ever, and what was there before stays as it was. */
static void assert_no_successor(enum lie which) {
        lie = which;
        start_with(&(struct fake_options) { .n_pages = { 64, 64 }, .tamper = lie_when_resumed },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        fake_publish(fake, 0, 3, 1);
        restart();
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        assert_ensured(3);
        cr_assert_eq(client->state->epoch, 1);
        cr_assert_eq(client->memories[0].map->epoch, 1);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert_eq(fake->n_calls, 2, "asked once");
        if (which == LIE_STALE)
                cr_assert(strstr(pb_explain(client), "another snapshot"), "%s", pb_explain(client));
        stop();
}

TEST(successor, refuses_a_broker_of_another_guest) {
        assert_no_successor(LIE_STALE);
}

TEST(successor, refuses_other_guest_memory) {
        assert_no_successor(LIE_OTHER_MEMORY);
}

TEST(successor, refuses_fewer_regions) {
        assert_no_successor(LIE_FEWER_REGIONS);
}

TEST(successor, refuses_regions_elsewhere) {
        assert_no_successor(LIE_MOVED_REGION);
}

TEST(successor, refuses_a_session_that_does_not_know_the_ring) {
        assert_no_successor(LIE_NEW_SESSION);
}

/* It would fetch over what has been written to the page. */
TEST(successor, refuses_a_map_that_has_forgotten_a_page) {
        start(PB_ROLE_DEVICE);
        fake_publish(fake, 0, 3, 1);
        fake_die(fake);
        fake_succeed(fake);
        fake->memories[0].present[0] = 0;
        fake_start(fake);
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert(pb_is_present(client, 3 * PAGE, PAGE));
        stop();
}

/* The second HELLO finds a broker that dies before READY; the third one's broker stays. */
static void hang_up_once(struct fake *f, struct fake_packet *packet) {
        if (f->epoch == 2 && packet->type == PB_MSG_READY) {
                packet->size = 0;
                (void) shutdown(f->socket, SHUT_RDWR);
        }
}

TEST(successor, survives_a_broker_that_dies_in_the_middle_of_it) {
        struct caller caller;

        start_with(&(struct fake_options) { .n_pages = { 4096 }, .tamper = hang_up_once },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        restart();
        cr_assert(EVENTUALLY(__atomic_load_n(&fake->n_calls, __ATOMIC_RELAXED) == 2));
        restart();
        fake_serve(fake);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(client->state->epoch, 3);
        stop();
}

/* A broker that says why it hangs up means this client. */
TEST(successor, does_not_come_back_after_it_was_thrown_out) {
        const struct pb_message_result farewell = {
                .header = { .type = PB_MSG_REFUSED, .size = sizeof farewell },
                .error = -EPROTO,
                .text = "thrown out",
        };

        start(PB_ROLE_DEVICE);
        cr_assert_eq(send(fake->socket, &farewell, sizeof farewell, 0), sizeof farewell);
        restart();
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 8 * PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert_eq(fake->n_calls, 1);
        cr_assert(strstr(pb_explain(client), "thrown out"), "%s", pb_explain(client));
        stop();
}

/* ---- calls ---- */

static void answer_stats_from_epoch_2(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (call->header.type == PB_MSG_STATS && f->epoch == 1)
                answer->size = 0;
        else if (call->header.type == PB_MSG_STATS)
                answer->stats.pages_total = 4242;
}

static void *get_stats(void *userdata) {
        struct pb_stats *stats = userdata;

        *stats = (struct pb_stats) { .size = sizeof *stats };
        return (void *) (intptr_t) pb_get_stats(client, stats);
}

static void expect_stats_after_restart(uint32_t role) {
        struct pb_stats stats;
        pthread_t thread;
        void *result;

        start_with(&(struct fake_options) { .n_pages = { 4096 }, .on_call = answer_stats_from_epoch_2 },
                   OPTIONS(.role = role, .slice_us = 1000));
        cr_assert_eq(pthread_create(&thread, NULL, get_stats, &stats), 0);
        cr_assert(EVENTUALLY(__atomic_load_n(&fake->n_calls, __ATOMIC_RELAXED) == 2));
        restart();
        cr_assert_eq(pthread_join(thread, &result), 0);
        cr_assert_eq((intptr_t) result, 0);
        cr_assert_eq(stats.pages_total, 4242);
        stop();
}

TEST(successor, repeats_a_call_whose_answer_was_lost) {
        expect_stats_after_restart(PB_ROLE_DEVICE);
}

TEST(successor, an_observer_goes_on_too) {
        expect_stats_after_restart(PB_ROLE_OBSERVER);
}

/* Somebody else notices first, while the call waits on a socket that has become another one. */
TEST(successor, repeats_a_call_when_another_thread_has_resumed) {
        struct caller caller;
        struct pb_stats stats;
        pthread_t thread;
        void *result;

        start_with(&(struct fake_options) { .n_pages = { 4096 }, .on_call = answer_stats_from_epoch_2 },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        cr_assert_eq(pthread_create(&thread, NULL, get_stats, &stats), 0);
        caller_start(&caller, client, 1, RANGE(7));
        cr_assert(EVENTUALLY(__atomic_load_n(&fake->n_calls, __ATOMIC_RELAXED) == 2));
        restart();
        fake_serve(fake);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(pthread_join(thread, &result), 0);
        cr_assert_eq((intptr_t) result, 0);
        cr_assert_eq(stats.pages_total, 4242);
        stop();
}

/* ---- handlers and children ---- */

static volatile sig_atomic_t handler_errors, handler_runs;

static void ensure_in_handler(int signal) {
        static uint64_t page = 1000;

        handler_runs = handler_runs + 1;
        if (pb_ensure(client, page++ * PAGE, PAGE, PB_READ) != 0)
                handler_errors = handler_errors + 1;
}

/* Signals rain on a thread that waits, notices, resumes and asks again. */
TEST(successor, handlers_may_come_at_any_moment) {
        struct caller caller;

        start(PB_ROLE_DEVICE);
        (void) signal(SIGUSR1, ensure_in_handler);
        for (unsigned round = 0; round < 20; round++) {
                caller_start(&caller, client, 1, RANGE(round * 10));
                fake_wait_sleepers(fake, 1);
                for (unsigned i = 0; i < 20; i++)
                        (void) pthread_kill(caller.thread, SIGUSR1);
                fake_die(fake);
                for (unsigned i = 0; i < 20; i++)
                        (void) pthread_kill(caller.thread, SIGUSR1);
                fake_succeed(fake);
                fake_start(fake);
                fake_serve(fake);
                cr_assert_eq(caller_join(&caller), 0);
                restart(); /* without a pager, for the next round */
        }
        cr_assert_gt(handler_runs, 0);
        cr_assert_eq(handler_errors, 0);
        fake_die(fake);
        stop();
}

/* The push is made to fault where it sets the ready bit. The handler replaces the broker, and resumes by asking for another
 * page itself. Which broker the interrupted push then goes to, nobody can tell. */
static void replace_broker(int signal) {
        if (mprotect(client->ring, PAGE, PROT_READ | PROT_WRITE) < 0)
                _exit(3);
        handler_runs = handler_runs + 1;
        fake_restart(fake);
        fake_serve(fake);
        if (pb_ensure(client, 100 * PAGE, PAGE, PB_READ) != 0)
                handler_errors = handler_errors + 1;
}

static void replace_broker_in_next_push(void) {
        handler_runs = 0;
        (void) signal(SIGSEGV, replace_broker);
        cr_assert_eq(mprotect(client->ring, PAGE, PROT_NONE), 0);
}

TEST(successor, resumes_in_the_middle_of_a_push) {
        start(PB_ROLE_DEVICE);
        replace_broker_in_next_push();
        assert_ensured(7);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_errors, 0);
        cr_assert(pb_is_present(client, 100 * PAGE, PAGE));
        stop();
}

TEST(successor, resumes_in_the_middle_of_a_submit) {
        struct pb_completion completion;
        unsigned n = 0;

        start(PB_ROLE_DEVICE);
        replace_broker_in_next_push();
        cr_assert_eq(pb_submit(client, RANGE(7), 1, 55), 0);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_errors, 0);
        while (n == 0) {
                cr_assert(wait_readable(pb_get_fd(client)));
                n += (unsigned) pb_reap(client, &completion, 1);
        }
        cr_assert_eq(completion.cookie, 55);
        cr_assert_eq(completion.result, 0);
        /* Once, and the slot is free for the next one. */
        cr_assert_eq(pb_reap(client, &completion, 1), 0);
        cr_assert_eq(client->pushing[0], 0);
        for (uint64_t page = 200; page < 220; page++)
                assert_ensured(page);
        cr_assert_eq(pb_reap(client, &completion, 1), 0);
        stop();
}

/* The child finds the numbers by identity: it must know the new one. */
TEST(successor, a_child_closes_the_new_connection) {
        int status, socket;
        pid_t pid;

        start(PB_ROLE_DEVICE);
        restart();
        fake_serve(fake);
        assert_ensured(7);
        socket = client->socket;
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                struct stat st;

                if (pb_ensure(client, 0, PAGE, PB_READ) != -ECHILD)
                        _exit(1);
                (void) pb_disconnect(client);
                _exit(fstat(socket, &st) == 0 ? 2 : 0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        stop();
}
