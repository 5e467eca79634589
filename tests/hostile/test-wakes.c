/* SPDX-License-Identifier: MIT */
/*
 * Wake-ups, without the slices that would hide a lost one: clients that follow PROTOCOL.md to the letter, ring the
 * doorbell only when they are asked to, and sleep without an end. Not hostile, but a broker that loses one wake-up leaves
 * them standing for ever.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/macro.h"
#include "protocol/order.h"
#include "tests/hostile/raw.h"
#include "tests/lib/test.h"

#define N_PAGES 16384u
#define N_SESSIONS_MAX 3u
#define N_THREADS_MAX 2u

static struct test_image image;

static void sleep_on(const uint32_t *word, uint32_t value) {
        (void) syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

/* ---- the map's word alone ---- */

struct sleeper {
        const struct raw *raw;
        uint64_t page;
        pid_t tid;
        bool woken;
};

static const uint32_t *word_of(const struct raw *raw, uint64_t page) {
        const char *map = (const char *) raw->header[0];

        return (const uint32_t *) (const void *) (map + raw->header[0]->present_offset) + page / 32;
}

static void *sleep_until_present(void *arg) {
        struct sleeper *sleeper = arg;
        const uint32_t *word = word_of(sleeper->raw, sleeper->page);
        uint32_t value;

        __atomic_store_n(&sleeper->tid, (pid_t) syscall(SYS_gettid), __ATOMIC_RELEASE);
        while (!((value = order_present_load(word)) & 1u << sleeper->page % 32))
                sleep_on(word, value);
        __atomic_store_n(&sleeper->woken, true, __ATOMIC_RELEASE);
        return NULL;
}

static bool sleeps(struct sleeper *sleeper) {
        pid_t tid = __atomic_load_n(&sleeper->tid, __ATOMIC_ACQUIRE);

        return tid && test_thread_syscall(getpid(), tid) == SYS_futex && test_thread_state(getpid(), tid) == 'S';
}

/* Nothing says who sleeps there: whoever may read the map may, with no session of his own. */
TEST(wakes, who_sleeps_on_the_maps_word_alone_is_woken) {
        struct test_broker broker;
        struct raw looker, asker;
        struct raw_push push;
        pthread_t thread;

        test_image_make(&image, &(struct test_image_spec) { .seed = 71, .n_pages = 256 });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ""), "--fill=off", "--read-around=4K");
        cr_assert_eq(raw_open(&looker, broker.address, PB_AS_DEVICE), 0);
        cr_assert_eq(raw_open(&asker, broker.address, PB_AS_DEVICE), 0);
        /* Both words of a slice. */
        for (uint64_t page = 70; page <= 110; page += 40) {
                struct sleeper sleeper = { .raw = &looker, .page = page };

                cr_assert_eq(pthread_create(&thread, NULL, sleep_until_present, &sleeper), 0);
                cr_assert(EVENTUALLY(sleeps(&sleeper)));
                push = raw_want(page, 1);
                cr_assert_eq(raw_request(&asker, 0, &push), 0);
                cr_assert(EVENTUALLY(__atomic_load_n(&sleeper.woken, __ATOMIC_ACQUIRE)),
                          "page %u is present, its sleeper sleeps", (unsigned) page);
                (void) pthread_join(thread, NULL);
                test_image_assert(&image, page, 1, looker.memory[0] + page * TEST_PAGE);
        }
        raw_close(&looker);
        raw_close(&asker);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* ---- a session's own words ---- */

struct strict {
        struct raw *sessions; /* one after the other: whatever is lost, nothing of another session makes up for it */
        unsigned n_sessions;
        pthread_barrier_t *together; /* both threads of a session at once; NULL: alone */
        uint32_t slot;
        uint64_t first, n;
        uint32_t sequence;
        uint64_t n_done;
        int result;
};

static void push_strictly(struct strict *strict, const struct raw *raw, uint64_t page) {
        struct pb_ring *ring = raw->ring;
        struct pb_slot *shared = &ring->slots[strict->slot];
        const struct pb_slot head = { .op = PB_SLOT_ENSURE, .n_ranges = 1 };

        order_slot_store64(&shared->ranges[0].first_page, page);
        order_slot_store64(&shared->ranges[0].n_pages, 1);
        order_slot_store32(&shared->ranges[0].memory, 0);
        order_slot_store32(&shared->ranges[0].intent, PB_INTENT_READ);
        order_slot_store32(&shared->head, head.head);
        order_slot_store_sequence(&shared->sequence, ++strict->sequence);
        order_request_push(&ring->ready[strict->slot / 64], 1ull << strict->slot % 64, &ring->summary,
                           1u << strict->slot / 64);
        order_after_push();
        if (order_doorbell_needed(&raw->state->doorbell_needed))
                (void) !write(raw->doorbell, &(uint64_t) { 1 }, sizeof(uint64_t));
}

static int wait_strictly(const struct strict *strict, const struct raw *raw) {
        for (;;) {
                uint32_t event = order_event_load(&raw->state->event);
                uint64_t outcome = order_outcome_load(&raw->state->outcome[strict->slot]);

                if (outcome_sequence(outcome) == strict->sequence && outcome_result(outcome) != PB_OUTCOME_TAKEN)
                        return outcome_result(outcome);
                order_sleepers_enter(&raw->ring->sleepers);
                sleep_on(&raw->state->event, event);
                order_sleepers_leave(&raw->ring->sleepers);
        }
}

static void *ask_strictly(void *arg) {
        struct strict *strict = arg;

        for (uint64_t i = 0; i < strict->n; i++) {
                const struct raw *raw = &strict->sessions[i % strict->n_sessions];
                uint64_t page = strict->first + i;
                int r;

                if (strict->together)
                        (void) pthread_barrier_wait(strict->together);
                /* A little later each time, so that a push meets the pager at every step of its way to sleep. */
                for (uint64_t n = i * 2654435761u % 16384; n > 0; n--)
                        __asm__ __volatile__("" ::: "memory");
                push_strictly(strict, raw, page);
                r = wait_strictly(strict, raw);
                if (r == 0 && test_image_compare(&image, page, 1, raw->memory[0] + page * TEST_PAGE) != TEST_IMAGE_NONE)
                        r = -EBADMSG;
                strict->result = strict->result ?: r;
                __atomic_store_n(&strict->n_done, i + 1, __ATOMIC_RELEASE);
        }
        return NULL;
}

static uint64_t count_done(const struct strict *threads, unsigned n) {
        uint64_t done = 0;

        for (unsigned i = 0; i < n; i++)
                done += __atomic_load_n(&threads[i].n_done, __ATOMIC_ACQUIRE);
        return done;
}

/* Every thread asks for its share of the pages, each page once. */
static void ask_for_everything(unsigned n_sessions, unsigned n_threads) {
        struct strict threads[N_THREADS_MAX];
        struct raw sessions[N_SESSIONS_MAX];
        pthread_barrier_t together;
        struct test_broker broker;
        pthread_t ids[N_THREADS_MAX];
        uint64_t done = 0, n = N_PAGES / n_threads;

        test_image_make(&image, &(struct test_image_spec) { .seed = 72, .n_pages = N_PAGES });
        /* Without looking out it goes to sleep after each request. */
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ""), "--fill=off", "--read-around=4K", "--spin=0");
        for (unsigned i = 0; i < n_sessions; i++)
                cr_assert_eq(raw_open(&sessions[i], broker.address, PB_AS_DEVICE), 0);
        cr_assert_eq(pthread_barrier_init(&together, NULL, n_threads), 0);
        for (unsigned i = 0; i < n_threads; i++) {
                threads[i] = (struct strict) {
                        .sessions = sessions,
                        .n_sessions = n_sessions,
                        .together = n_threads > 1 ? &together : NULL,
                        .slot = 100 * i,
                        .first = i * n,
                        .n = n,
                };
                cr_assert_eq(pthread_create(&ids[i], NULL, ask_strictly, &threads[i]), 0);
        }
        while (done < n_threads * n) {
                uint64_t before = done;

                cr_assert(EVENTUALLY((done = count_done(threads, n_threads)) > before),
                          "nobody goes on after %llu requests", (unsigned long long) before);
        }
        for (unsigned i = 0; i < n_threads; i++) {
                (void) pthread_join(ids[i], NULL);
                cr_assert_eq(threads[i].result, 0);
        }
        (void) pthread_barrier_destroy(&together);
        for (unsigned i = 0; i < n_sessions; i++)
                raw_close(&sessions[i]);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* Before it sleeps the broker asks every session for its doorbell, and looks at every one again. */
TEST(wakes, push_that_meets_the_pager_on_its_way_to_sleep_is_found) {
        ask_for_everything(N_SESSIONS_MAX, 1);
}

/* They share an event word, and a count of sleepers. */
TEST(wakes, two_threads_of_a_session_are_both_woken) {
        ask_for_everything(1, N_THREADS_MAX);
}
