/* SPDX-License-Identifier: MIT */
/* Signal handlers that interrupt the slow path anywhere, and children after fork(). */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/slot.h"
#include "common/clock.h"
#include "common/fd.h"
#include "protocol/order.h"

static struct fake *fake;
static pb_client *client;

static void start(const struct pb_options *options) {
        fake = fake_new(&(struct fake_options) { .n_pages = { 4096 } });
        fake_start(fake);
        client = connect_with(fake, options);
}

static void stop(void) {
        client = pb_disconnect(client);
        fake_free(fake);
}

/* ---- a handler in the middle of a push ---- */

static volatile sig_atomic_t handler_runs;
static volatile int handler_result;
static void *trap_page;
static int trap_protection;

/* The access that the handler interrupts is made to fault: opens the page, ensures another page of guest memory from
 * inside the handler, and lets the interrupted access go on. */
static void trap(int signal) {
        if (mprotect(trap_page, PAGE, trap_protection) < 0)
                _exit(3);
        handler_runs = handler_runs + 1;
        handler_result = pb_ensure(client, 100 * PAGE, PAGE, PB_READ);
}

static void trap_at(const void *addr, int protection) {
        trap_page = (void *) ((uintptr_t) addr & ~(PAGE - 1));
        trap_protection = protection;
        handler_runs = 0;
        handler_result = 1;
        (void) signal(SIGSEGV, trap);
        cr_assert_eq(mprotect(trap_page, PAGE, PROT_NONE), 0);
}

/* The ring's first page holds the ready words, the summary and `sleepers`: the slot is written, its ready bit is not
 * yet set when the handler comes. */
TEST(reentry, handler_between_slot_and_ready_bit) {
        start(OPTIONS(.role = PB_ROLE_DEVICE));
        fake_serve(fake);
        trap_at(client->ring, PROT_READ | PROT_WRITE);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_result, 0);
        cr_assert(fake_page_is_right(pb_translate(client, 0, PAGE), 0, 0));
        cr_assert(fake_page_is_right(pb_translate(client, 100 * PAGE, PAGE), 0, 100));
        /* Two different slots were used. */
        cr_assert_eq(client->slots[0].sequence, 1);
        cr_assert_eq(client->slots[1].sequence, 1);
        stop();
}

/* The slots themselves lie on later pages: the slot is claimed and half written. */
TEST(reentry, handler_in_the_middle_of_a_slot) {
        start(OPTIONS(.role = PB_ROLE_DEVICE));
        fake_serve(fake);
        trap_at(&client->ring->slots[0], PROT_READ | PROT_WRITE);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_result, 0);
        cr_assert(pb_is_present(client, 0, PAGE));
        cr_assert(pb_is_present(client, 100 * PAGE, PAGE));
        stop();
}

/* The first page of the session state is first read before the push (`closed`), so the trap is sprung there too. */
TEST(reentry, handler_before_the_push) {
        start(OPTIONS(.role = PB_ROLE_DEVICE));
        fake_serve(fake);
        trap_at(&client->state->event, PROT_READ);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_result, 0);
        cr_assert(pb_is_present(client, 0, PAGE));
        stop();
}

TEST(reentry, handler_takes_the_last_slot) {
        struct fake_request request;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .timeout_us = 20000));
        for (unsigned i = 0; i < PB_RING_SLOTS - 1; i++)
                cr_assert_eq(slot_claim(client), (int) i);
        trap_at(&client->ring->slots[PB_RING_SLOTS - 1], PROT_READ | PROT_WRITE);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ETIMEDOUT);
        (void) signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(handler_result, -ETIMEDOUT, "no slot: bounded by the timeout, not stuck");
        fake_expect(fake, &request);
        cr_assert_eq(request.ranges[0].first_page, 0);
        stop();
}

/* ---- a handler during the sleep ---- */

static void ensure_in_handler(int signal) {
        int saved = errno;

        handler_result = pb_ensure(client, 200 * PAGE, PAGE, PB_READ);
        errno = saved;
        handler_runs = handler_runs + 1;
}

TEST(reentry, handler_during_the_sleep) {
        struct fake_request outer, inner;
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000000));
        (void) signal(SIGUSR1, ensure_in_handler);
        caller_start(&caller, client, 1, RANGE(0));
        fake_expect(fake, &outer);
        fake_wait_sleepers(fake, 1);
        cr_assert_eq(pthread_kill(caller.thread, SIGUSR1), 0);
        fake_expect(fake, &inner);
        cr_assert_eq(inner.ranges[0].first_page, 200);
        fake_satisfy(fake, &inner);
        fake_satisfy(fake, &outer);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(handler_runs, 1);
        cr_assert_eq(handler_result, 0);
        cr_assert_eq(fake->ring->sleepers, 0);
        stop();
}

/* A signal every now and then must not push the end of the slice, or the deadline, away. */
static void nothing(int signal) {
}

TEST(reentry, signals_do_not_extend_the_deadline) {
        struct caller caller;
        uint64_t start_us = clock_now_us();

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 20000, .timeout_us = 100000));
        (void) signal(SIGUSR1, nothing);
        caller_start(&caller, client, 1, RANGE(0));
        while (pthread_tryjoin_np(caller.thread, NULL) == EBUSY) {
                (void) pthread_kill(caller.thread, SIGUSR1);
                cr_assert_lt(clock_now_us() - start_us, TEST_PATIENCE_US);
        }
        cr_assert_eq(caller.result, -ETIMEDOUT);
        cr_assert_geq(get_counters(client).slices, 1);
        stop();
}

TEST(reentry, keeps_errno) {
        start(OPTIONS(.role = PB_ROLE_DEVICE, .timeout_us = 5000, .slice_us = 1000));
        errno = 4242;
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ETIMEDOUT);
        cr_assert_eq(pb_ensure(client, 1ull << 60, PAGE, PB_READ), -EFAULT);
        cr_assert_eq(errno, 4242);
        stop();
}

/* ---- fork ---- */

#define CHILD_ASSERT(condition)                    \
        do {                                       \
                if (!(condition))                  \
                        _exit(__LINE__ % 200 + 1); \
        } while (0)

static void reap_child(pid_t pid) {
        int status;

        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status), "signal %d", WTERMSIG(status));
        cr_assert_eq(WEXITSTATUS(status), 0, "assertion at a line that is %d modulo 200", WEXITSTATUS(status) - 1);
}

static void child_calls(void) {
        struct pb_counters counters = { .size = sizeof counters };
        struct pb_stats stats = { .size = sizeof stats };
        struct pb_completion completion;
        struct pb_region region;

        CHILD_ASSERT(pb_ensure(client, 0, PAGE, PB_READ) == -ECHILD); /* present in the parent */
        CHILD_ASSERT(pb_ensure(client, PAGE, PAGE, PB_WRITE) == -ECHILD);
        CHILD_ASSERT(pb_ensurev(client, RANGE(0), 1) == -ECHILD);
        CHILD_ASSERT(pb_submit(client, RANGE(0), 1, 0) == -ECHILD);
        CHILD_ASSERT(pb_reap(client, &completion, 1) == -ECHILD);
        CHILD_ASSERT(pb_get_fd(client) == -ECHILD);
        CHILD_ASSERT(pb_prefetch(client, 0, PAGE) == -ECHILD);
        CHILD_ASSERT(pb_discard(client, 0, PAGE) == -ECHILD);
        CHILD_ASSERT(pb_attach_vmm(client, NULL) == -ECHILD);
        CHILD_ASSERT(pb_set_fill(client, true) == -ECHILD);
        CHILD_ASSERT(pb_heal(client, 0, 0, NULL) == -ECHILD);
        CHILD_ASSERT(pb_get_stats(client, &stats) == -ECHILD);
        CHILD_ASSERT(pb_get_counters(client, &counters) == -ECHILD);
        CHILD_ASSERT(pb_get_region(client, 0, &region) == -ECHILD);
        CHILD_ASSERT(pb_translate(client, 0, PAGE) == NULL);
        CHILD_ASSERT(!pb_is_present(client, 0, PAGE));
        CHILD_ASSERT(strstr(pb_explain(client), "fork") != NULL);
}

TEST(fork, every_call_of_a_child_says_echild) {
        pid_t pid;

        start(OPTIONS(.role = PB_ROLE_VMM));
        fake_publish(fake, 0, 0, 1);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                child_calls();
                CHILD_ASSERT(pb_disconnect(client) == NULL);
                _exit(0);
        }
        reap_child(pid);
        stop();
}

TEST(fork, the_parent_goes_on_after_its_child_has_disconnected) {
        pid_t pid;

        start(OPTIONS(.role = PB_ROLE_DEVICE));
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                (void) pb_disconnect(client);
                _exit(0);
        }
        reap_child(pid);
        cr_assert_eq(pb_ensure(client, PAGE, PAGE, PB_READ), 0);
        cr_assert(fake_page_is_right(pb_translate(client, PAGE, PAGE), 0, 1));
        stop();
}

static unsigned count_kind(enum fd_kind kind) {
        unsigned n = 0;

        for (int fd = 0; fd < 200; fd++)
                if (fd_get_kind(fd) == kind)
                        n++;
        return n;
}

/* Guest memory and the session must not live on behind the parent's back. */
TEST(fork, a_child_closes_what_was_inherited) {
        pid_t pid;

        start(OPTIONS(.role = PB_ROLE_DEVICE));
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                unsigned sockets = count_kind(FD_KIND_SOCKET), memories = count_kind(FD_KIND_MEMFD);

                (void) pb_disconnect(client);
                CHILD_ASSERT(count_kind(FD_KIND_SOCKET) == sockets - 2); /* control and completions */
                CHILD_ASSERT(count_kind(FD_KIND_MEMFD) == memories - 2); /* guest memory and ring */
                _exit(0);
        }
        reap_child(pid);
        stop();
}

/* A child that has closed a descriptor of ours and got its number for something else keeps that. */
TEST(fork, a_child_loses_no_descriptor_of_its_own) {
        struct pb_region region;
        pid_t pid;

        start(OPTIONS(.role = PB_ROLE_DEVICE));
        cr_assert_eq(pb_get_region(client, 0, &region), 0);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                int own = memfd_new("own", PAGE, PAGE);

                CHILD_ASSERT(own >= 0 && dup2(own, region.fd) == region.fd);
                (void) pb_disconnect(client);
                CHILD_ASSERT(fcntl(region.fd, F_GETFD) >= 0);
                _exit(0);
        }
        reap_child(pid);
        stop();
}

TEST(fork, a_child_may_connect_anew) {
        struct fake *second;
        pid_t pid;

        start(OPTIONS(.role = PB_ROLE_DEVICE));
        second = fake_new(&(struct fake_options) { .n_pages = { 64 } });
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                pb_client *own = NULL;

                fake_start(second);
                fake_serve(second);
                CHILD_ASSERT(pb_connect(&own, second->address, OPTIONS(.role = PB_ROLE_DEVICE)) == 0);
                CHILD_ASSERT(pb_ensure(own, 5 * PAGE, PAGE, PB_READ) == 0);
                CHILD_ASSERT(fake_page_is_right(pb_translate(own, 5 * PAGE, PAGE), 0, 5));
                CHILD_ASSERT(pb_ensure(client, 0, PAGE, PB_READ) == -ECHILD);
                CHILD_ASSERT(pb_disconnect(own) == NULL);
                _exit(0);
        }
        reap_child(pid);
        fake_free(second);
        stop();
}

/* ---- cancellation ---- */

TEST(reentry, is_no_cancellation_point) {
        struct fake_request request;
        uint64_t slices;
        struct caller caller;
        void *value;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        caller_start(&caller, client, 1, RANGE(0));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        cr_assert_eq(pthread_cancel(caller.thread), 0);
        slices = get_counters(client).slices;
        cr_assert(EVENTUALLY(get_counters(client).slices > slices + 2), "it does not go on waiting");
        fake_answer(fake, &request, -EIO);
        cr_assert_eq(pthread_join(caller.thread, &value), 0);
        /* It ran to its end (where the thread may then have been cancelled): the call has cleaned up. */
        cr_assert_eq(caller.result, -EIO);
        cr_assert_eq(fake->ring->sleepers, 0);
        cr_assert_eq(client->busy[0], 0);
        stop();
}
