/* SPDX-License-Identifier: MIT */
/* pb_ensure(), pb_ensurev(), pb_is_present(), pb_discard(): what is asked for and what comes back. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <string.h>

#include "client/slot.h"

static struct fake *fake;
static pb_client *client;

static void start(const struct fake_options *options, uint32_t role) {
        fake = fake_new(options);
        fake_start(fake);
        client = connect_as(fake, role);
}

static void stop(void) {
        client = pb_disconnect(client);
        fake_free(fake);
}

/* No slot is in use. */
static void assert_slots_free(void) {
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++)
                cr_assert_eq(client->busy[i] & ~client->zombie[i], 0, "word %u", i);
}

static const struct fake_options one_memory = { .n_pages = { 256 } };
static const struct fake_options two_regions = { .n_pages = { 64, 64 } };

#define RANGES(...) ((const struct pb_range[]) { __VA_ARGS__ })

TEST(ensure, fetches_and_shows_the_bytes) {
        char *ram;

        start(&one_memory, PB_ROLE_DEVICE);
        fake_serve(fake);
        ram = pb_translate(client, 0, 256 * PAGE);
        for (uint64_t page = 0; page < 256; page += 5) {
                cr_assert_eq(pb_ensure(client, page * PAGE + 17, 100, PB_READ), 0);
                cr_assert(fake_page_is_right(ram + page * PAGE, 0, page));
                cr_assert(pb_is_present(client, page * PAGE, PAGE));
                cr_assert_not(pb_is_present(client, (page + 1) * PAGE, 1));
        }
        assert_slots_free();
        stop();
}

TEST(ensure, asks_nothing_when_present) {
        start(&one_memory, PB_ROLE_DEVICE);
        fake_publish(fake, 0, 3, 70);
        cr_assert_eq(pb_ensure(client, 3 * PAGE, 70 * PAGE, PB_OVERWRITE), 0);
        cr_assert_eq(pb_ensurev(client, RANGES({ 3 * PAGE, PAGE, PB_READ, 0 }, { 9 * PAGE, PAGE, PB_WRITE, 0 }), 2), 0);
        cr_assert_eq(pb_ensure(client, 3 * PAGE, 0, PB_READ), 0);
        cr_assert_eq(pb_ensurev(client, NULL, 0), 0);
        cr_assert_eq(fake_count_doorbells(fake), 0);
        cr_assert_eq(fake->ring->summary, 0);
        cr_assert_eq(get_counters(client).slow_calls, 0);
        stop();
}

TEST(ensure, asks_once_for_a_range_across_regions) {
        struct fake_request request;
        struct caller caller;

        start(&two_regions, PB_ROLE_DEVICE);
        caller_start(&caller, client, 1, RANGES({ 60 * PAGE, 8 * PAGE, PB_WRITE, 0 }));
        fake_expect(fake, &request);
        cr_assert_eq(request.op, PB_SLOT_ENSURE);
        cr_assert_eq(request.flags, 0);
        cr_assert_eq(request.n_ranges, 2);
        cr_assert_eq(request.ranges[0].memory, 0);
        cr_assert_eq(request.ranges[0].first_page, 60);
        cr_assert_eq(request.ranges[0].n_pages, 4);
        cr_assert_eq(request.ranges[0].intent, PB_WRITE);
        cr_assert_eq(request.ranges[1].memory, 1);
        cr_assert_eq(request.ranges[1].first_page, 0);
        cr_assert_eq(request.ranges[1].n_pages, 4);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert(pb_is_present(client, 60 * PAGE, 8 * PAGE), "also across regions");
        assert_slots_free();
        stop();
}

TEST(ensure, says_why_not) {
        start(&two_regions, PB_ROLE_DEVICE);
        cr_assert_eq(pb_ensure(client, 0, 1, 0), -EINVAL);
        cr_assert_eq(pb_ensure(client, 0, 1, 4), -EINVAL);
        cr_assert_eq(pb_ensure(client, 128 * PAGE, 1, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensure(client, 127 * PAGE, PAGE + 1, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensure(client, UINT64_MAX, 2, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensurev(client, RANGES({ 0, 1, PB_READ, 0 }, { 0, 1, PB_READ, 7 }), 2), -EINVAL);
        cr_assert_not(pb_is_present(client, 127 * PAGE, PAGE + 1));
        cr_assert_not(pb_is_present(client, UINT64_MAX, 2));
        cr_assert_eq(fake->ring->summary, 0, "nothing was asked for");
        stop();
}

/* Every outcome that the protocol names comes out as it is. */
TEST(ensure, hands_on_what_the_broker_says) {
        static const int errors[] = { -EINVAL, -EFAULT, -EACCES, -EIO, -ENOMEM };
        struct fake_request request;
        struct caller caller;

        start(&one_memory, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
                caller_start(&caller, client, 1, RANGES({ 5 * PAGE, PAGE, PB_READ, 0 }));
                fake_expect(fake, &request);
                fake_wait_sleepers(fake, 1);
                fake_answer(fake, &request, errors[i]);
                cr_assert_eq(caller_join(&caller), errors[i]);
        }
        assert_slots_free();
        stop();
}

TEST(ensure, does_not_believe_nonsense) {
        static const int answers[] = { 0, 2, 4711, -5000 }; /* "done" without the bits, and no errnos */
        struct fake_request request;
        struct caller caller;

        start(&one_memory, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < sizeof answers / sizeof *answers; i++) {
                caller_start(&caller, client, 1, RANGES({ 5 * PAGE, PAGE, PB_READ, 0 }));
                fake_expect(fake, &request);
                fake_answer(fake, &request, answers[i]);
                cr_assert_eq(caller_join(&caller), -EPROTO);
        }
        stop();
}

TEST(ensure, ends_when_the_bits_are_there_whatever_the_outcome) {
        struct fake_request request;
        struct caller caller;

        start(&one_memory, PB_ROLE_DEVICE);
        caller_start(&caller, client, 1, RANGES({ 31 * PAGE, 2 * PAGE, PB_READ, 0 }));
        fake_expect(fake, &request);
        fake_wait_sleepers(fake, 1);
        fake_publish(fake, 0, 31, 1);
        fake_publish(fake, 0, 32, 1);
        cr_assert_eq(caller_join(&caller), 0);
        /* The slot is not free before the broker has said the last word. */
        cr_assert_eq(client->busy[0], 1);
        cr_assert_eq(client->zombie[0], 1);
        fake_answer(fake, &request, 0);
        stop();
}

TEST(ensure, stops_at_the_first_error) {
        struct fake_request first, second;
        struct caller caller;
        struct pb_range ranges[11];

        start(&one_memory, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 11; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_READ, 0 };
        caller_start(&caller, client, 11, ranges);
        fake_expect(fake, &first);
        fake_expect(fake, &second);
        fake_poison(fake, 0, 20);
        fake_answer(fake, &second, -EIO);
        cr_assert_eq(caller_join(&caller), -EIO);
        fake_satisfy(fake, &first);
        stop();
}

TEST(ensure, puts_a_long_chain_into_several_slots_with_one_doorbell) {
        struct pb_range ranges[25];
        struct fake_request request;
        struct caller caller;
        bool seen[64] = {};

        start(&one_memory, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 25; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_READ, 0 };
        caller_start(&caller, client, 25, ranges);
        fake_wait_sleepers(fake, 1);
        cr_assert_eq(fake_count_doorbells(fake), 1);
        for (unsigned i = 0; i < 3; i++) {
                fake_expect(fake, &request);
                cr_assert_eq(request.n_ranges, i < 2 ? 10 : 5);
                for (unsigned j = 0; j < request.n_ranges; j++) {
                        cr_assert_eq(request.ranges[j].n_pages, 1);
                        seen[request.ranges[j].first_page] = true;
                }
                fake_satisfy(fake, &request);
        }
        cr_assert_eq(caller_join(&caller), 0);
        for (unsigned i = 0; i < 50; i++)
                cr_assert_eq(seen[i], i % 2 == 0, "page %u", i);
        stop();
}

TEST(ensure, takes_chains_longer_than_a_round) {
        static struct pb_range ranges[1500];
        static const struct fake_options large = { .n_pages = { 3000 } };

        start(&large, PB_ROLE_DEVICE);
        fake_serve(fake);
        for (unsigned i = 0; i < 1500; i++)
                ranges[i] = (struct pb_range) { 2 * i * PAGE, PAGE, PB_READ, 0 };
        cr_assert_eq(pb_ensurev(client, ranges, 1500), 0);
        for (unsigned i = 0; i < 1500; i++)
                cr_assert(fake_page_is_right(pb_translate(client, 2 * i * PAGE, PAGE), 0, 2 * i));
        cr_assert_not(pb_is_present(client, PAGE, 1));
        assert_slots_free();
        stop();
}

TEST(ensure, overwrite_fetches_only_the_edges) {
        struct fake_request request;
        struct caller caller;

        start(&one_memory, PB_ROLE_DEVICE);
        caller_start(&caller, client, 1, RANGES({ 4 * PAGE + 100, 3 * PAGE, PB_OVERWRITE, 0 }));
        fake_expect(fake, &request);
        cr_assert_eq(request.n_ranges, 3);
        cr_assert_eq(request.ranges[0].intent, PB_WRITE);
        cr_assert_eq(request.ranges[0].first_page, 4);
        cr_assert_eq(request.ranges[1].intent, PB_OVERWRITE);
        cr_assert_eq(request.ranges[1].first_page, 5);
        cr_assert_eq(request.ranges[1].n_pages, 2);
        cr_assert_eq(request.ranges[2].intent, PB_WRITE);
        cr_assert_eq(request.ranges[2].first_page, 7);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(ensure, notes_when_everything_is_there) {
        start(&one_memory, PB_ROLE_DEVICE);
        fake_serve(fake);
        cr_assert_eq(client->prefix.complete, 0);
        cr_assert_eq(pb_ensure(client, 0, 255 * PAGE, PB_READ), 0);
        cr_assert_eq(client->prefix.complete, 0);
        fake->memories[0].map->complete = 1; /* a moment early, but the call that follows looks after the bit */
        cr_assert_eq(pb_ensure(client, 255 * PAGE, PAGE, PB_READ), 0);
        cr_assert_eq(client->prefix.complete, 1);
        stop();
}

TEST(discard, asks_for_whole_pages_without_intent_and_waits_for_the_outcome) {
        struct fake_request request;
        struct caller caller;

        start(&two_regions, PB_ROLE_VMM);
        fake_publish(fake, 0, 0, 64);
        caller_start_discard(&caller, client, 62 * PAGE, 4 * PAGE);
        fake_expect(fake, &request);
        cr_assert_eq(request.op, PB_SLOT_DISCARD);
        cr_assert_eq(request.n_ranges, 2);
        cr_assert_eq(request.ranges[0].first_page, 62);
        cr_assert_eq(request.ranges[0].n_pages, 2);
        cr_assert_eq(request.ranges[0].intent, 0);
        cr_assert_eq(request.ranges[1].memory, 1);
        fake_wait_sleepers(fake, 1);
        fake_publish(fake, 1, 0, 2); /* all pages present: that does not end a discard */
        cr_assert_eq(caller.result, 1);
        fake_answer(fake, &request, 0);
        cr_assert_eq(caller_join(&caller), 0);
        assert_slots_free();
        stop();
}

TEST(discard, hands_on_not_done_yet) {
        struct fake_request request;
        struct caller caller;

        start(&one_memory, PB_ROLE_VMM);
        caller_start_discard(&caller, client, 0, PAGE);
        fake_expect(fake, &request);
        fake_answer(fake, &request, -ETIMEDOUT);
        cr_assert_eq(caller_join(&caller), -ETIMEDOUT);
        stop();
}

TEST(discard, refuses_what_it_must) {
        start(&one_memory, PB_ROLE_VMM);
        cr_assert_eq(pb_discard(client, 1, PAGE), -EINVAL);
        cr_assert_eq(pb_discard(client, PAGE, 100), -EINVAL);
        cr_assert_eq(pb_discard(client, 256 * PAGE, PAGE), -EFAULT);
        cr_assert_eq(pb_discard(client, 0, 0), 0);
        stop();
        start(&one_memory, PB_ROLE_DEVICE);
        cr_assert_eq(pb_discard(client, 0, PAGE), -EACCES);
        stop();
}
