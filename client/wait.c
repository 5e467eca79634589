/* SPDX-License-Identifier: MIT */
#include "client/wait.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <sys/resource.h>

#include "client/completion.h"
#include "client/resume.h"
#include "client/slot.h"
#include "common/clock.h"
#include "common/futex.h"
#include "common/macro.h"
#include "protocol/order.h"

/* Later than this after the end of a slice, a thread that finds its request decided has been off its CPU for so long
 * that the outcome may have come after the sleep, where no wake could reach it. */
#define LOST_WAKE_DOUBT_US 2000u
/* A wake that has not come after so many further slices, or so long, is lost, not late: a broker may be off its CPU
 * between the bit and the wake for as long as the machine likes. */
#define LOST_WAKE_SLICES 1000u
#define LOST_WAKE_PATIENCE_US (10 * USEC_PER_SEC)

/*
 * The words to sleep on, with the values that were tested. The third is the client's generation: when the session is
 * resumed, the two others become those of other files, and nobody will ever wake a thread that sleeps on the old ones
 * (model: epoch.pml NO_GENERATION).
 */
struct nap {
        const uint32_t *word;
        uint32_t word_value;
        const uint32_t *event;
        uint32_t event_value;
        uint32_t generation;
};

uint64_t wait_get_deadline(const pb_client *client) {
        if (client->timeout_us <= 0)
                return USEC_INFINITY;
        return clock_now_us() + (uint64_t) client->timeout_us;
}

static int first_error(const struct wait *wait, bool *ret_pending) {
        *ret_pending = false;
        for (unsigned i = 0; i < wait->n_slots; i++) {
                int r = slot_outcome(wait->client, wait->slots[i]);

                if (r == -EINPROGRESS)
                        *ret_pending = true;
                else if (r < 0)
                        return r;
        }
        return 0;
}

/* Is it decided? Then `*ret_result` says how. If not, `nap` is what to sleep on. Outcomes are looked at before
 * presence: the bits come first on the broker's side, so outcomes that are all 0 must find all pages present. */
static bool test(struct wait *wait, struct nap *nap, int *ret_result) {
        const pb_client *client = wait->client;
        struct missing missing;
        bool pending;
        int r;

        nap->generation = client_generation(client);
        nap->event = &client->state->event;
        nap->event_value = order_event_load(nap->event);
        r = first_error(wait, &pending);
        if (wait->cursor && !cursor_find_missing(wait->cursor, &missing))
                r = 0;
        else if (r == 0 && pending) {
                if (wait->cursor) {
                        /* Pages are brought in order: a wake before the last one's would be for nothing. */
                        (void) ranges_find_last(client, wait->cursor->ranges, wait->cursor->n, &missing);
                        nap->word = missing.word;
                        nap->word_value = missing.value;
                } else {
                        /* No page to sleep on. A word that matters and that does not change before the end. */
                        nap->word = &client->state->closed;
                        nap->word_value = 0;
                }
                return false;
        }
        *ret_result = r;
        return true;
}

static int nap_take(struct wait *wait, const struct nap *nap, uint64_t until_us) {
        struct timespec until = clock_timespec(until_us);
        int saved = errno, r;

        client_count(&wait->client->counters.sleeps);
        order_sleepers_enter(&wait->client->ring->sleepers);
        r = futex_wait3(nap->word, nap->word_value, nap->event, nap->event_value, &wait->client->generation,
                        nap->generation, &until);
        order_sleepers_leave(&wait->client->ring->sleepers);
        errno = saved;
        return r;
}

/* How often this thread has left its CPU, of its own accord or not. */
static long count_switches(void) {
        struct rusage usage;

        return getrusage(RUSAGE_THREAD, &usage) < 0 ? LONG_MAX : usage.ru_nvcsw + usage.ru_nivcsw;
}

/* Sleeps on until something wakes us, or the broker that owes the wake is gone. False if neither ever happens. `switches`:
 * before the first look. */
static bool wake_comes_late(struct wait *wait, const struct nap *slept, const struct nap *look, long switches) {
        uint64_t end_us =
                clock_now_us() + min_u64(LOST_WAKE_PATIENCE_US, (uint64_t) LOST_WAKE_SLICES * wait->client->slice_us);

        for (bool first = true; first || clock_now_us() < end_us; first = false)
                if (nap_take(wait, look, clock_now_us() + wait->client->slice_us) != -ETIMEDOUT ||
                    (first && count_switches() > switches + 1) || !client_look_after_broker(wait->client) ||
                    client_generation(wait->client) != slept->generation)
                        return true;
        return false;
}

/*
 * PB_OPT_COUNT_LOST_WAKES. The slice has ended and, in the first look after it, a word had changed. That alone happens
 * in correct code: the broker may stand between the bit and the wake. So sleep on, with the values of that first look:
 * if the wake comes, or anything else changes, nothing was lost. Nor if the broker has ended in between: it owes
 * nobody a wake. A wake between the two sleeps reaches nobody: nothing is concluded if this thread left its CPU there. What is left
 * are some instructions; who counts lost wakes takes slices that are long beside them.
 */
static void judge_lost_wake(struct wait *wait, const struct nap *slept, const struct nap *look, uint64_t late_us,
                            long switches) {
        struct nap again;
        int result;

        if (look->event_value == slept->event_value && look->word_value == slept->word_value)
                return;
        if (late_us > LOST_WAKE_DOUBT_US || !test(wait, &again, &result))
                return;
        if (!wake_comes_late(wait, slept, look, switches))
                client_count(&wait->client->counters.lost_wakes);
}

static void slice_end(struct wait *wait, uint64_t now_us) {
        client_count(&wait->client->counters.slices);
        wait->slice_us = now_us + wait->client->slice_us;
        slots_push_again(wait->client, wait->slots, wait->n_slots);
        (void) client_look_after_broker(wait->client);
}

/* One sleep of at most the rest of the slice. The slice's end is absolute: signals and wakes that were meant for others
 * do not push it away, or a busy word could keep this thread from ever looking after the broker. */
static int sleep_once(struct wait *wait, const struct nap *nap) {
        uint64_t until_us = min_u64(wait->slice_us, wait->deadline_us), now_us;
        bool judges = wait->n_slots > 0 && wait->client->flags & PB_OPT_COUNT_LOST_WAKES;
        long before = judges ? count_switches() : 0, switches = 0;
        struct nap look = *nap;
        int r;

        if (client_is_lost(wait->client))
                until_us = min_u64(until_us, clock_now_us() + RESUME_NAP_US);
        r = nap_take(wait, nap, until_us);
        if (judges)
                switches = count_switches();
        /* Nothing may come between the end of the sleep and this look. */
        look.word_value = order_present_load(look.word);
        look.event_value = order_event_load(look.event);
        now_us = clock_now_us();
        if (r == -ETIMEDOUT && now_us >= wait->slice_us && judges && switches <= before + 1)
                judge_lost_wake(wait, nap, &look, now_us - min_u64(until_us, now_us), switches);
        if (r < 0 && r != -ETIMEDOUT && r != -EAGAIN && r != -EINTR)
                return r;
        if (now_us >= wait->slice_us)
                slice_end(wait, now_us);
        return 0;
}

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield" ::: "memory");
#endif
}

/* Worth it only while the pager runs, and runs somewhere else: on this CPU it could not run before we stop. */
static bool pager_runs_elsewhere(const pb_client *client) {
        return order_hint_load32(&client->state->pager_awake) &&
               (int64_t) order_hint_load32(&client->state->pager_cpu) != sched_getcpu();
}

static bool spin(struct wait *wait, int *ret_result) {
        const pb_client *client = wait->client;
        uint64_t end_us;
        struct nap nap;

        if (client->spin_us <= 0 || !pager_runs_elsewhere(client))
                return false;
        end_us = clock_now_us() + (uint64_t) client->spin_us;
        do {
                /* The clock costs more than a look. */
                for (unsigned i = 0; i < 16; i++) {
                        if (test(wait, &nap, ret_result))
                                return true;
                        cpu_relax();
                }
        } while (order_hint_load32(&client->state->pager_awake) && clock_now_us() < end_us);
        return false;
}

/* Goes on with a broker that has come after the one that was asked. True if there is something new to look at. */
static bool follow(struct wait *wait) {
        pb_client *client = wait->client;

        if (client_is_lost(client) &&
            client_resume(client, min_u64(clock_now_us() + client->slice_us, wait->deadline_us)) == -EAGAIN)
                return false;
        return slots_follow(client, wait->slots, wait->n_slots);
}

int wait_for_outcomes(struct wait *wait) {
        pb_client *client = wait->client;
        struct nap nap;
        int result, r;

        if (spin(wait, &result)) {
                client_count(&client->counters.spins_won);
                return result;
        }
        wait->slice_us = clock_now_us() + client->slice_us;
        while (!test(wait, &nap, &result)) {
                if (client_is_dead(client)) /* what came before the end has just been tested for... */
                        return test(wait, &nap, &result) ? result : -ECONNRESET; /* ... and what came with it */
                if (clock_now_us() >= wait->deadline_us)
                        return -ETIMEDOUT;
                if (follow(wait))
                        continue;
                r = sleep_once(wait, &nap);
                if (r < 0)
                        return r;
        }
        return result;
}

/*
 * Slots come back by release (`slot_event`), and by outcomes of requests that nobody waits for (`event`): those of
 * abandoned slots are found by slot_claim(), those of asynchronous requests are taken in here, so that a thread
 * which is the one that reaps cannot lock itself out.
 */
static int claim_or_nap(struct wait *wait, struct nap *nap) {
        pb_client *client = wait->client;
        struct missing missing;
        int slot;

        *nap = (struct nap) {
                .word = &client->slot_event,
                .event = &client->state->event,
                .generation = client_generation(client),
        };
        nap->word_value = __atomic_load_n(&client->slot_event, __ATOMIC_SEQ_CST);
        nap->event_value = order_event_load(nap->event);
        if (wait->cursor && !cursor_find_missing(wait->cursor, &missing))
                return -EALREADY;
        completion_harvest_for_reaper(client);
        slot = slot_claim(client);
        if (slot < 0 && client_is_dead(client))
                return -ECONNRESET;
        return slot;
}

int wait_for_slot(struct wait *wait) {
        pb_client *client = wait->client;
        struct nap nap;
        int slot, r;

        wait->slice_us = clock_now_us() + client->slice_us;
        /* Counted before the test, so that a release after the test sees it (slot_release()). */
        (void) __atomic_fetch_add(&client->slot_waiters, 1, __ATOMIC_SEQ_CST);
        while ((slot = claim_or_nap(wait, &nap)) == -EAGAIN) {
                if (clock_now_us() >= wait->deadline_us) {
                        slot = -ETIMEDOUT;
                        break;
                }
                if (follow(wait))
                        continue;
                r = sleep_once(wait, &nap);
                if (r < 0) {
                        slot = r;
                        break;
                }
        }
        (void) __atomic_fetch_sub(&client->slot_waiters, 1, __ATOMIC_SEQ_CST);
        return slot;
}
