/* SPDX-License-Identifier: MIT */
/* pb_submit(), pb_get_fd(), pb_reap(), pb_prefetch(). */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <sched.h>
#include <sys/socket.h>

#include "client/completion.h"
#include "client/slot.h"

static struct fake *fake;
static pb_client *client;

static void start_with(uint64_t n_pages, const struct pb_options *options) {
        fake = fake_new(&(struct fake_options) { .n_pages = { n_pages } });
        fake_start(fake);
        client = connect_with(fake, options);
}

static void start(uint64_t n_pages) {
        start_with(n_pages, OPTIONS(.role = PB_ROLE_DEVICE));
}

static void stop(void) {
        client = pb_disconnect(client);
        fake_free(fake);
}

TEST(submit, completes_with_its_cookie) {
        struct pb_completion completion = {};
        struct fake_request request;

        start(64);
        cr_assert_eq(pb_submit(client, RANGE(9), 1, 0xfeedull << 40), 0);
        cr_assert_not(is_readable(pb_get_fd(client)));
        cr_assert_eq(pb_reap(client, &completion, 1), 0);
        fake_expect(fake, &request);
        cr_assert_eq(request.flags, PB_SLOT_ASYNC);
        cr_assert_eq(request.ranges[0].first_page, 9);
        fake_satisfy(fake, &request);
        cr_assert(is_readable(pb_get_fd(client)));
        cr_assert_eq(pb_reap(client, &completion, 1), 1);
        cr_assert_eq(completion.cookie, 0xfeedull << 40);
        cr_assert_eq(completion.result, 0);
        cr_assert(fake_page_is_right(pb_translate(client, 9 * PAGE, PAGE), 0, 9));
        cr_assert_eq(pb_reap(client, &completion, 1), 0);
        cr_assert_not(is_readable(pb_get_fd(client)));
        cr_assert_eq(client->busy[0], 0);
        cr_assert_eq(client->request_busy[0], 0);
        stop();
}

TEST(submit, says_present_at_once_and_completes_never) {
        start(64);
        fake_publish(fake, 0, 9, 1);
        cr_assert_eq(pb_submit(client, RANGE(9), 1, 1), 1);
        cr_assert_eq(pb_submit(client, NULL, 0, 1), 1);
        cr_assert_eq(fake->ring->summary, 0);
        cr_assert_eq(client->request_busy[0], 0);
        stop();
}

TEST(submit, hands_on_errors) {
        struct pb_completion completion;
        struct fake_request request;

        start(64);
        cr_assert_eq(pb_submit(client, RANGE(64), 1, 1), -EFAULT);
        cr_assert_eq(pb_submit(client, &(struct pb_range) { 0, PAGE, 0, 0 }, 1, 1), -EINVAL);
        cr_assert_eq(pb_submit(client, RANGE(1), 1, 77), 0);
        fake_expect(fake, &request);
        fake_answer(fake, &request, -EIO);
        cr_assert_eq(pb_reap(client, &completion, 1), 1);
        cr_assert_eq(completion.cookie, 77);
        cr_assert_eq(completion.result, -EIO);
        stop();
}

TEST(submit, of_several_slots_completes_once_with_the_first_error) {
        struct pb_completion completions[4];
        struct fake_request requests[3];
        struct pb_range ranges[25];

        start(64);
        for (unsigned i = 0; i < 25; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_WRITE, 0 };
        cr_assert_eq(pb_submit(client, ranges, 25, 5), 0);
        for (unsigned i = 0; i < 3; i++)
                fake_expect(fake, &requests[i]);
        fake_satisfy(fake, &requests[1]);
        cr_assert_eq(pb_reap(client, completions, 4), 0, "one of three");
        fake_answer(fake, &requests[2], -ENOMEM);
        cr_assert_eq(pb_reap(client, completions, 4), 0, "two of three");
        fake_answer(fake, &requests[0], -EIO);
        cr_assert_eq(pb_reap(client, completions, 4), 1);
        cr_assert_eq(completions[0].cookie, 5);
        cr_assert_eq(completions[0].result, -ENOMEM);
        cr_assert_eq(pb_reap(client, completions, 4), 0);
        cr_assert_eq(client->busy[0], 0);
        stop();
}

TEST(submit, a_thousand_at_once_each_completes_once) {
        static struct pb_completion completions[100];
        static bool seen[1000];
        unsigned n = 0;

        start(2048);
        for (unsigned i = 0; i < 1000; i++)
                cr_assert_eq(pb_submit(client, RANGE(2 * i), 1, i), 0);
        fake_serve(fake);
        while (n < 1000) {
                int r;

                cr_assert(wait_readable(pb_get_fd(client)), "%u completions came", n);
                r = pb_reap(client, completions, 100);
                cr_assert_geq(r, 0);
                for (int i = 0; i < r; i++, n++) {
                        uint64_t page = 2 * completions[i].cookie;

                        cr_assert_eq(completions[i].result, 0);
                        cr_assert_not(seen[completions[i].cookie]);
                        seen[completions[i].cookie] = true;
                        cr_assert(fake_page_is_right(pb_translate(client, page * PAGE, PAGE), 0, page));
                }
        }
        cr_assert_eq(pb_reap(client, completions, 100), 0);
        cr_assert_not(is_readable(pb_get_fd(client)));
        stop();
}

TEST(submit, refuses_the_1025th_until_one_is_reaped) {
        struct pb_completion completion;
        struct fake_request request;

        start(2048);
        for (unsigned i = 0; i < 1024; i++)
                cr_assert_eq(pb_submit(client, RANGE(i), 1, i), 0);
        cr_assert_eq(pb_submit(client, RANGE(1024), 1, 1024), -EAGAIN);
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        cr_assert_eq(pb_submit(client, RANGE(1024), 1, 1024), -EAGAIN, "answered, but not reaped");
        cr_assert_eq(pb_reap(client, &completion, 1), 1);
        cr_assert_eq(pb_submit(client, RANGE(1024), 1, 1024), 0);
        stop();
}

/* A thread that submits, waits and reaps: its waiting call must not hang because it has not reaped. */
TEST(submit, finished_but_unreaped_requests_hold_no_slots) {
        struct pb_completion completions[1024];
        struct fake_request request;

        start(2048);
        for (unsigned i = 0; i < 1024; i++)
                cr_assert_eq(pb_submit(client, RANGE(i), 1, i), 0);
        for (unsigned i = 0; i < 1024; i++) {
                fake_expect(fake, &request);
                fake_satisfy(fake, &request);
        }
        fake_serve(fake);
        cr_assert_eq(pb_ensure(client, 2000 * PAGE, PAGE, PB_READ), 0);
        cr_assert(is_readable(pb_get_fd(client)), "harvested, and still announced");
        cr_assert_eq(pb_reap(client, completions, 1024), 1024);
        cr_assert_not(is_readable(pb_get_fd(client)));
        stop();
}

/* The announcement of a completion may have been taken by a reap that came too early for it. */
TEST(submit, harvest_by_a_waiter_announces_anew) {
        struct pb_completion completion;
        struct fake_request request;

        start(64);
        cr_assert_eq(pb_submit(client, RANGE(1), 1, 3), 0);
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        (void) recv(client->completion, &completion, sizeof completion, MSG_DONTWAIT);
        cr_assert_not(is_readable(pb_get_fd(client)));
        completion_harvest_for_reaper(client);
        cr_assert(is_readable(pb_get_fd(client)));
        cr_assert_eq(pb_reap(client, &completion, 1), 1);
        cr_assert_eq(completion.cookie, 3);
        stop();
}

TEST(submit, stays_readable_while_completions_are_left) {
        struct pb_completion completions[2];
        struct fake_request request;

        start(64);
        for (unsigned i = 0; i < 5; i++) {
                cr_assert_eq(pb_submit(client, RANGE(i), 1, i), 0);
                fake_expect(fake, &request);
                fake_satisfy(fake, &request);
        }
        cr_assert(is_readable(pb_get_fd(client)));
        cr_assert_eq(pb_reap(client, completions, 2), 2);
        cr_assert(is_readable(pb_get_fd(client)), "3 left");
        cr_assert_eq(pb_reap(client, completions, 0), 0);
        cr_assert(is_readable(pb_get_fd(client)), "3 left, none taken");
        cr_assert_eq(pb_reap(client, completions, 2), 2);
        cr_assert(is_readable(pb_get_fd(client)), "1 left");
        cr_assert_eq(pb_reap(client, completions, 2), 1);
        cr_assert_not(is_readable(pb_get_fd(client)));
        stop();
}

TEST(submit, every_cookie_completes_when_the_broker_dies) {
        struct pb_completion completions[8];
        struct fake_request request;
        struct pb_range ranges[25];
        uint64_t cookies = 0;
        unsigned n = 0;

        start(128);
        cr_assert_eq(pb_submit(client, RANGE(100), 1, 0), 0);
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        cr_assert_eq(pb_submit(client, RANGE(101), 1, 1), 0);
        for (unsigned i = 0; i < 25; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_WRITE, 0 };
        cr_assert_eq(pb_submit(client, ranges, 25, 2), 0);
        fake_die(fake);
        while (n < 3) {
                int r;

                cr_assert(is_readable(pb_get_fd(client)));
                r = pb_reap(client, completions, 8);
                cr_assert_gt(r, 0);
                for (int i = 0; i < r; i++, n++) {
                        cr_assert_eq(completions[i].result, completions[i].cookie == 0 ? 0 : -ECONNRESET);
                        cookies |= 1ull << completions[i].cookie;
                }
        }
        cr_assert_eq(cookies, 7);
        cr_assert_eq(pb_reap(client, completions, 8), -ECONNRESET);
        cr_assert(is_readable(pb_get_fd(client)), "the end stays visible");
        cr_assert_eq(pb_submit(client, RANGE(102), 1, 3), -ECONNRESET);
        stop();
}

TEST(submit, nonsense_in_the_completion_queue_is_passed_over) {
        struct pb_completion completions[8];
        struct fake_request request;

        start(64);
        cr_assert_eq(pb_submit(client, RANGE(1), 1, 1), 0);
        fake_expect(fake, &request);
        fake_post_completion(fake, PB_RING_SLOTS);
        fake_post_completion(fake, UINT32_MAX); /* no slot, far outside */
        fake_post_completion(fake, 17);         /* a slot of nobody */
        fake_satisfy(fake, &request);
        fake_post_completion(fake, request.slot); /* once more */
        cr_assert_eq(pb_reap(client, completions, 8), 1);
        cr_assert_eq(completions[0].result, 0);
        cr_assert_eq(pb_reap(client, completions, 8), 0);
        /* Announced before it is decided: an error, and the slot is not used again before its outcome. */
        cr_assert_eq(pb_submit(client, RANGE(2), 1, 2), 0);
        fake_expect(fake, &request);
        fake_post_completion(fake, request.slot);
        cr_assert_eq(pb_reap(client, completions, 8), 1);
        cr_assert_eq(completions[0].cookie, 2);
        cr_assert_eq(completions[0].result, -EPROTO);
        cr_assert_neq(client->zombie[0], 0);
        stop();
}

TEST(submit, a_tail_that_makes_no_sense_does_not_hang) {
        struct pb_completion completions[8];

        start(64);
        fake->state->completion_tail = 0x80000000u;
        cr_assert_eq(pb_reap(client, completions, 8), 0);
        stop();
}

TEST(submit, refuses_more_than_all_slots_hold) {
        static struct pb_range ranges[10250];

        start(20500);
        for (unsigned i = 0; i < 10250; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_READ, 0 };
        cr_assert_eq(pb_submit(client, ranges, 10250, 1), -EINVAL);
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++)
                cr_assert_eq(client->busy[i] | client->request_busy[i], 0);
        cr_assert_eq(fake->ring->summary, 0);
        stop();
}

static uint32_t n_reaped, reaped_twice;
static uint8_t reaped[4000];

static void *reap_until_done(void *userdata) {
        while (__atomic_load_n(&n_reaped, __ATOMIC_RELAXED) < 4000) {
                struct pb_completion completions[7];
                int r;

                if (!wait_readable(pb_get_fd(client)))
                        break;
                r = pb_reap(client, completions, 7);
                for (int i = 0; i < r; i++)
                        if (__atomic_exchange_n(&reaped[completions[i].cookie], 1, __ATOMIC_RELAXED))
                                (void) __atomic_fetch_add(&reaped_twice, 1, __ATOMIC_RELAXED);
                if (r > 0 && __atomic_add_fetch(&n_reaped, (uint32_t) r, __ATOMIC_RELAXED) == 4000)
                        completion_signal_leftovers(client); /* let the others look */
        }
        return NULL;
}

/* Two reapers and two submitters at once: each cookie exactly once, and nobody sleeps over the last one. */
TEST(submit, several_threads_submit_and_reap) {
        pthread_t threads[2];

        start(8192);
        fake_serve(fake);
        for (unsigned i = 0; i < 2; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, reap_until_done, NULL), 0);
        for (unsigned i = 0; i < 4000;) {
                int r = pb_submit(client, RANGE(2 * i), 1, i);

                cr_assert(r == 0 || r == -EAGAIN);
                if (r == 0)
                        i++;
                else
                        (void) sched_yield();
        }
        for (unsigned i = 0; i < 2; i++)
                cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_assert_eq(n_reaped, 4000);
        cr_assert_eq(reaped_twice, 0);
        stop();
}

TEST(prefetch, asks_and_forgets) {
        struct fake_request request;

        start(64);
        cr_assert_eq(pb_prefetch(client, 3 * PAGE + 5, 2 * PAGE), 0);
        fake_expect(fake, &request);
        cr_assert_eq(request.op, PB_SLOT_PREFETCH);
        cr_assert_eq(request.flags, 0);
        cr_assert_eq(request.ranges[0].first_page, 3);
        cr_assert_eq(request.ranges[0].n_pages, 3);
        cr_assert_eq(request.ranges[0].intent, 0);
        cr_assert_eq(client->zombie[0], 1);
        fake_answer(fake, &request, -EAGAIN); /* nobody cares */
        fake_publish(fake, 0, 3, 3);
        cr_assert_eq(pb_prefetch(client, 3 * PAGE, 3 * PAGE), 0);
        cr_assert_eq(fake->ring->summary, 0, "present: nothing to ask");
        cr_assert_eq(pb_prefetch(client, 64 * PAGE, PAGE), -EFAULT);
        stop();
}

/* Prefetches alone never run out of slots as long as the broker answers. */
TEST(prefetch, reclaims_its_slots) {
        start(64);
        fake_serve(fake);
        for (unsigned i = 0; i < 5000; i++) {
                int r = pb_prefetch(client, 63 * PAGE, PAGE);

                cr_assert(r == 0 || r == -EAGAIN);
                if (pb_is_present(client, 63 * PAGE, PAGE))
                        fake->memories[0].present[1] = 0;
        }
        stop();
}

TEST(prefetch, of_a_reader_is_allowed) {
        struct fake_request request;

        start_with(64, OPTIONS(.role = PB_ROLE_DEVICE_RO));
        cr_assert_eq(pb_prefetch(client, 0, PAGE), 0);
        fake_expect(fake, &request);
        cr_assert_eq(request.op, PB_SLOT_PREFETCH);
        stop();
}
