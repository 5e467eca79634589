/* SPDX-License-Identifier: MIT */
/* How calls wait: timeouts, slices, spinning, the end of the broker, slots that run out, lost wakes. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/slot.h"
#include "common/clock.h"
#include "common/futex.h"
#include "protocol/order.h"

static struct fake *fake;
static pb_client *client;

static void start(const struct pb_options *options) {
        fake = fake_new(&(struct fake_options) { .n_pages = { 4096 } });
        fake_start(fake);
        client = connect_with(fake, options);
}

/* No slice ends before the test does, on a slow machine either: what ends a wait is a wake. Longer than a caller may ask for. */
static void start_in_one_slice(const struct pb_options *options) {
        start(options);
        client->slice_us = TEST_PATIENCE_US;
}

static void stop(void) {
        client = pb_disconnect(client);
        fake_free(fake);
}

TEST(wait, times_out_and_leaves_a_zombie_that_is_reclaimed) {
        struct fake_request request;
        uint64_t start_us;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .timeout_us = 30000, .slice_us = 1000000));
        start_us = clock_now_us();
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ETIMEDOUT);
        cr_assert_geq(clock_now_us() - start_us, 30000);
        cr_assert_eq(client->busy[0], 1);
        cr_assert_eq(client->zombie[0], 1);
        fake_expect(fake, &request);
        /* Taken is not final: the slot stays out of use however much it is needed. */
        for (unsigned i = 1; i < PB_RING_SLOTS; i++)
                cr_assert_eq(slot_claim(client), (int) i);
        cr_assert_eq(slot_claim(client), -EAGAIN);
        fake_answer(fake, &request, -EIO);
        cr_assert_eq(slot_claim(client), 0, "reclaimed");
        cr_assert_eq(client->zombie[0], 0);
        stop();
}

TEST(wait, is_ended_by_the_session_closing) {
        struct fake_request request;
        struct caller caller;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE));
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        fake_close_session(fake);
        cr_assert_eq(caller_join(&caller), -ECONNRESET);
        cr_assert_eq(get_counters(client).slices, 0, "by the wake, not by a slice");
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ECONNRESET);
        cr_assert_eq(pb_prefetch(client, 0, PAGE), -ECONNRESET);
        cr_assert_eq(pb_submit(client, RANGE(3), 1, 0), -ECONNRESET);
        stop();
}

TEST(wait, notices_a_broker_that_died_without_a_word) {
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        fake_die(fake);
        cr_assert_eq(caller_join(&caller), -ECONNRESET);
        stop();
}

TEST(wait, discards_notice_a_dead_broker_too) {
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_VMM, .slice_us = 1000));
        caller_start_discard(&caller, client, 0, PAGE);
        fake_wait_sleepers(fake, 1);
        fake_die(fake);
        cr_assert_eq(caller_join(&caller), -ECONNRESET);
        stop();
}

TEST(wait, present_pages_outlive_the_broker) {
        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        fake_publish(fake, 0, 0, 1);
        fake_die(fake);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_WRITE), 0);
        cr_assert_eq(pb_ensure(client, PAGE, PAGE, PB_READ), -ECONNRESET);
        cr_assert(fake_page_is_right(pb_translate(client, 0, PAGE), 0, 0));
        stop();
}

/* The last word counts: an outcome that came just before the end is not turned into a lost connection. */
TEST(wait, takes_what_came_with_the_end) {
        struct fake_request request;
        struct caller caller;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE));
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        fake_publish_silently(fake, 0, 7, 1);
        fake_close_session(fake);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(wait, rings_again_with_every_slice) {
        struct caller caller;
        struct fake_request request;
        uint64_t deadline_us;
        uint64_t rung = 0;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        fake->state->doorbell_needed = 0; /* a broker that forgot to ask */
        caller_start(&caller, client, 1, RANGE(7));
        deadline_us = clock_now_us() + TEST_PATIENCE_US;
        while ((rung += fake_count_doorbells(fake)) < 3 && clock_now_us() < deadline_us)
                (void) sched_yield();
        cr_assert_geq(rung, 3);
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        /* Ringing again does not push again. */
        cr_assert_eq(fake->ring->ready[0], 0);
        stop();
}

/* A broker that took the summary word and lost it (as a crash between two steps would) finds the request again. */
TEST(wait, points_at_the_slot_again) {
        struct fake_request request;
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        (void) order_request_take_summary(&fake->ring->summary);
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

/* Wakes that are for others, on both words, neither end the wait nor keep the slice from ending. */
TEST(wait, survives_wakes_for_others) {
        struct fake_request request;
        struct caller caller;
        uint64_t deadline_us;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 50000));
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        deadline_us = clock_now_us() + TEST_PATIENCE_US;
        do {
                (void) futex_wake_all(&fake->memories[0].present[0]);
                (void) __atomic_fetch_add(&fake->state->event, 1, __ATOMIC_RELEASE);
                (void) futex_wake_all(&fake->state->event);
        } while (get_counters(client).slices < 3 && clock_now_us() < deadline_us);
        cr_assert_geq(get_counters(client).slices, 3);
        cr_assert_eq(caller.result, 1);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(wait, needs_no_event_when_the_bit_comes) {
        struct fake_request request;
        struct caller caller;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE));
        caller_start(&caller, client, 1, RANGE(77));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        fake_publish(fake, 0, 77, 1);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(get_counters(client).slices, 0);
        cr_assert_eq(fake->ring->sleepers, 0);
        stop();
}

TEST(wait, spins_only_beside_a_pager_that_runs_elsewhere) {
        cpu_set_t one_cpu;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE, .spin_us = 1000000));
        fake_serve(fake);
        /* This thread stays where it is, so that "elsewhere" stays true; the pager may run anywhere. */
        CPU_ZERO(&one_cpu);
        CPU_SET((size_t) sched_getcpu(), &one_cpu);
        cr_assert_eq(sched_setaffinity(0, sizeof one_cpu, &one_cpu), 0);
        fake->state->pager_awake = 1;
        fake->state->pager_cpu = (uint32_t) sched_getcpu() + 1;
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        cr_assert_eq(get_counters(client).spins_won, 1);
        cr_assert_eq(get_counters(client).sleeps, 0);
        fake->state->pager_cpu = (uint32_t) sched_getcpu();
        cr_assert_eq(pb_ensure(client, PAGE, PAGE, PB_READ), 0);
        cr_assert_eq(get_counters(client).spins_won, 1);
        fake->state->pager_cpu = (uint32_t) sched_getcpu() + 1;
        fake->state->pager_awake = 0;
        cr_assert_eq(pb_ensure(client, 2 * PAGE, PAGE, PB_READ), 0);
        cr_assert_eq(get_counters(client).spins_won, 1);
        stop();
}

TEST(wait, never_spins_when_told_so) {
        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE, .spin_us = -1));
        fake_serve(fake);
        fake->state->pager_awake = 1;
        fake->state->pager_cpu = (uint32_t) sched_getcpu() + 1;
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        cr_assert_eq(get_counters(client).spins_won, 0);
        stop();
}

/* ---- slots that run out ---- */

static void take_all_slots(void) {
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                cr_assert_eq(slot_claim(client), (int) i);
}

TEST(slots, exhausted_make_a_call_wait_until_one_is_released) {
        struct fake_request request;
        struct caller caller;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE));
        take_all_slots();
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        cr_assert_eq(pb_prefetch(client, 0, PAGE), -EAGAIN);
        cr_assert_eq(pb_submit(client, RANGE(9), 1, 5), -EAGAIN);
        slot_release(client, 700);
        fake_expect(fake, &request);
        cr_assert_eq(request.slot, 700);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(get_counters(client).slices, 0, "by the wake, not by a slice");
        stop();
}

TEST(slots, exhausted_make_a_call_wait_for_an_abandoned_one) {
        struct fake_request abandoned, request;
        struct caller caller;

        start_in_one_slice(OPTIONS(.role = PB_ROLE_DEVICE));
        cr_assert_eq(pb_prefetch(client, 100 * PAGE, PAGE), 0);
        fake_expect(fake, &abandoned);
        cr_assert_eq(abandoned.op, PB_SLOT_PREFETCH);
        for (unsigned i = 1; i < PB_RING_SLOTS; i++)
                cr_assert_eq(slot_claim(client), (int) i);
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        fake_answer(fake, &abandoned, 0); /* the event word is what wakes it */
        fake_expect(fake, &request);
        cr_assert_eq(request.slot, abandoned.slot);
        cr_assert_neq(request.sequence, abandoned.sequence);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(get_counters(client).slices, 0);
        stop();
}

TEST(slots, exhausted_bound_a_call_by_its_timeout) {
        start(OPTIONS(.role = PB_ROLE_DEVICE, .timeout_us = 20000));
        take_all_slots();
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ETIMEDOUT);
        stop();
}

TEST(slots, exhausted_do_not_hide_a_dead_broker) {
        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        take_all_slots();
        fake_die(fake);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ECONNRESET);
        stop();
}

TEST(slots, exhausted_do_not_matter_when_the_page_comes_anyway) {
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000));
        take_all_slots();
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        fake_publish(fake, 0, 7, 1);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(slots, sequences_skip_zero) {
        struct fake_request request;
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE));
        client->slots[0].sequence = UINT32_MAX;
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        cr_assert_eq(request.sequence, 1);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

/* ---- what is looked at first ---- */

/*
 * The first look at the words that a waiter sleeps on, after it has found its request undecided: made to fault. An outcome
 * that comes just then has changed the event word, so that the event word must have been loaded before: loaded now, it
 * would be the new value, which nobody is going to change (model: wake.pml EV_AFTER).
 */
static volatile sig_atomic_t traps_left;
static const void *volatile looked_at;

static void protect_words(int protection) {
        if (mprotect((void *) client->state, PAGE, protection & ~PROT_WRITE) < 0 ||
            mprotect(client->ring, PAGE, protection) < 0)
                _exit(3);
}

static void on_trap(int signal, siginfo_t *info, void *context) {
        if (traps_left == 2) { /* the outcome words' page: let it read, and see what is next */
                traps_left = 1;
                if (mprotect((void *) client->state->outcome, PAGE, PROT_READ) < 0)
                        _exit(3);
                protect_words(PROT_NONE);
                return;
        }
        traps_left = 0;
        looked_at = info->si_addr;
        protect_words(PROT_READ | PROT_WRITE);
}

TEST(wait, loads_the_event_word_before_the_outcome) {
        struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
        struct fake_request request;
        struct caller caller;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000, .spin_us = -1));
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        cr_assert_eq(sigaction(SIGSEGV, &action, NULL), 0);
        traps_left = 2;
        cr_assert_eq(mprotect((void *) client->state->outcome, PAGE, PROT_NONE), 0);
        /* The end of a slice has it look again. */
        cr_assert(EVENTUALLY(traps_left == 0));
        cr_assert_neq((uintptr_t) looked_at, (uintptr_t) &client->state->event,
                      "the event word was loaded after the outcome had been tested");
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        (void) signal(SIGSEGV, SIG_DFL);
        stop();
}

/* ---- lost wakes ---- */

TEST(lost_wake, is_counted_when_nothing_ever_wakes) {
        struct fake_request request;
        struct caller caller;
        uint64_t lost = 0;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000, .flags = PB_OPT_COUNT_LOST_WAKES));
        /* On a loaded machine a look may come so late that it proves nothing: again, then. */
        for (unsigned i = 0; i < 20 && lost == 0; i++) {
                caller_start(&caller, client, 1, RANGE(i));
                fake_expect(fake, &request);
                fake_wait_sleepers(fake, 1);
                fake_publish_silently(fake, 0, i, 1);
                cr_assert_eq(caller_join(&caller), 0);
                order_outcome_store(&fake->state->outcome[request.slot], outcome_make(request.sequence, 0));
                lost = get_counters(client).lost_wakes;
        }
        cr_assert_eq(lost, 1);
        stop();
}

TEST(lost_wake, is_not_counted_when_all_is_well) {
        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 200000, .flags = PB_OPT_COUNT_LOST_WAKES));
        fake_serve(fake);
        for (unsigned i = 0; i < 2000; i++)
                cr_assert_eq(pb_ensure(client, i * PAGE, PAGE, PB_READ), 0);
        cr_assert_eq(get_counters(client).lost_wakes, 0);
        stop();
}

TEST(lost_wake, is_not_counted_for_a_wake_that_comes_late) {
        struct fake_request request;
        struct caller caller;
        uint64_t sleeps;

        start(OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 5000, .flags = PB_OPT_COUNT_LOST_WAKES));
        caller_start(&caller, client, 1, RANGE(3));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        sleeps = get_counters(client).sleeps;
        fake_publish_silently(fake, 0, 3, 1);
        /* The slice ends, the look finds the bit, further slices bring nothing: now the wake. A look that came too late to
         * prove anything ends the call at once. */
        while (get_counters(client).sleeps < sleeps + 5 && __atomic_load_n(&caller.result, __ATOMIC_RELAXED) == 1)
                (void) sched_yield();
        fake_answer(fake, &request, 0);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_eq(get_counters(client).lost_wakes, 0);
        stop();
}
