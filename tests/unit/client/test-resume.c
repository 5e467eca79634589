/* SPDX-License-Identifier: MIT */
/* The broker ends, and there is a next one: requests, completions, calls and mappings go on. */
#include "tests/unit/client/resuming.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "client/slot.h"
#include "common/clock.h"
#include "protocol/order.h"

/* ---- requests that somebody waits for ---- */

TEST(resume, asks_the_next_broker_what_was_under_way) {
        struct fake_request first, again;
        struct caller caller;

        start(PB_ROLE_DEVICE);
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &first);
        restart();
        fake_expect(fake, &again);
        cr_assert_eq(again.slot, first.slot);
        cr_assert_eq(again.sequence, first.sequence);
        cr_assert_eq(again.ranges[0].first_page, 7);
        fake_satisfy(fake, &again);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert(fake_page_is_right(pb_translate(client, 7 * PAGE, PAGE), 0, 7));
        cr_assert_eq(fake->calls[1].hello.epoch, 1, "the epoch that is known");
        stop();
}

TEST(resume, asks_again_what_was_never_taken) {
        struct fake_request request;
        struct caller caller;

        start(PB_ROLE_DEVICE);
        caller_start(&caller, client, 1, RANGE(7));
        fake_wait_sleepers(fake, 1);
        restart();
        fake_expect(fake, &request);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(resume, presents_its_ring) {
        struct stat ours, theirs;

        start(PB_ROLE_DEVICE);
        restart();
        fake_serve(fake);
        assert_ensured(7);
        cr_assert_geq(fake->calls[1].fd, 0);
        cr_assert_eq(fstat(fake->calls[1].fd, &theirs), 0);
        cr_assert_eq(fstat(fake->ring_fd, &ours), 0);
        cr_assert_eq(theirs.st_ino, ours.st_ino);
        stop();
}

TEST(resume, goes_on_restart_after_restart) {
        start(PB_ROLE_DEVICE);
        fake_serve(fake);
        for (uint64_t page = 0; page < 20; page++) {
                assert_ensured(page);
                restart();
                fake_serve(fake);
        }
        assert_ensured(20);
        cr_assert_eq(fake->epoch, 21);
        for (uint64_t page = 0; page < 20; page++)
                assert_ensured(page);
        stop();
}

TEST(resume, keeps_every_address_and_descriptor) {
        struct pb_region before, after;
        const uint32_t *words;
        int poll_fd;

        start(PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_region(client, 0, &before), 0);
        words = client->prefix.views[0].words;
        poll_fd = pb_get_fd(client);
        restart();
        fake_serve(fake);
        assert_ensured(7);
        cr_assert_eq(pb_get_region(client, 0, &after), 0);
        cr_assert_eq(after.addr, before.addr);
        cr_assert_eq(after.fd, before.fd);
        cr_assert_eq(client->prefix.views[0].words, words);
        cr_assert_eq(pb_get_fd(client), poll_fd);
        /* The inline path sees what the new broker publishes. */
        fake_publish(fake, 0, 1234, 1);
        cr_assert(pb_is_present(client, 1234 * PAGE, PAGE));
        cr_assert_eq(client->state->epoch, 2);
        stop();
}

TEST(resume, serves_many_threads) {
        struct caller callers[16];

        start(PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 16; i++)
                caller_start(&callers[i], client, 1, RANGE(i * 40));
        fake_wait_sleepers(fake, 16);
        restart();
        fake_serve(fake);
        for (unsigned i = 0; i < 16; i++)
                cr_assert_eq(caller_join(&callers[i]), 0);
        for (unsigned i = 0; i < 16; i++)
                cr_assert(fake_page_is_right(pb_translate(client, i * 40 * PAGE, PAGE), 0, i * 40));
        cr_assert_eq(fake->n_calls, 2, "one of them resumed, for all");
        stop();
}

/* ---- discards: never again once the caller knows ---- */

TEST(resume, repeats_a_discard_that_was_not_answered) {
        struct fake_request first, again;
        struct caller caller;

        start(PB_ROLE_VMM);
        caller_start_discard(&caller, client, 9 * PAGE, PAGE);
        fake_expect(fake, &first);
        restart();
        fake_expect(fake, &again);
        cr_assert_eq(again.op, PB_SLOT_DISCARD);
        cr_assert_eq(again.ranges[0].first_page, 9);
        fake_answer(fake, &again, 0);
        cr_assert_eq(caller_join(&caller), 0);
        stop();
}

TEST(resume, does_not_repeat_a_discard_that_was_answered) {
        struct fake_request request;
        struct caller caller;

        start(PB_ROLE_VMM);
        caller_start_discard(&caller, client, 9 * PAGE, PAGE);
        fake_expect(fake, &request);
        fake_answer(fake, &request, 0);
        cr_assert_eq(caller_join(&caller), 0);
        /* As if the ready bit had been set twice, and the broker had not come to the second one. */
        fake->ring->ready[0] = 1;
        fake->ring->summary = 1;
        restart();
        caller_start(&caller, client, 1, RANGE(7));
        fake_expect(fake, &request);
        cr_assert_eq(request.op, PB_SLOT_ENSURE);
        fake_satisfy(fake, &request);
        cr_assert_eq(caller_join(&caller), 0);
        cr_assert_not(fake_take(fake, &request, 0));
        stop();
}

/* Of a push in the middle of a resume nobody knows whether the old or the new broker saw it: "done" in the old state
 * must not be believed, because the new one may be about to do it again. */
TEST(resume, believes_no_outcome_of_a_push_that_met_a_resume) {
        const struct pb_slot_range range = { .first_page = 9, .n_pages = 1 };
        uint16_t slot;

        start(PB_ROLE_VMM);
        slot = (uint16_t) slot_claim(client);
        slot_fill(client, slot, PB_SLOT_DISCARD, 0, &range, 1);
        client->generation |= 1;
        slots_push(client, &slot, 1);
        order_outcome_store(&fake->state->outcome[slot], outcome_make(client->slots[slot].sequence, 0));
        cr_assert_eq(slot_outcome(client, slot), -EINPROGRESS);
        cr_assert_not(slots_follow(client, &slot, 1), "not before it is over");
        client->generation += 1;
        cr_assert_eq(slot_outcome(client, slot), -EINPROGRESS);
        cr_assert(slots_follow(client, &slot, 1));
        cr_assert_eq(slot_outcome(client, slot), 0, "now it counts");
        slot_release(client, slot);
        stop();
}

/* ---- slots that nobody waits for ---- */

TEST(resume, frees_what_was_given_up_before) {
        struct fake_request request;

        start_with(&(struct fake_options) { .n_pages = { 4096 } },
                   OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 5000, .timeout_us = 20000));
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ETIMEDOUT);
        fake_expect(fake, &request);
        cr_assert_eq(pb_prefetch(client, 50 * PAGE, PAGE), 0);
        cr_assert_eq(client->zombie[0], 3);
        client->timeout_us = 0;
        restart();
        fake_serve(fake);
        assert_ensured(7);
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                cr_assert(EVENTUALLY(slot_claim(client) >= 0), "slot %u", i); /* page 7's outcome may be on its way */
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                slot_release(client, i);
        stop();
}

/* Pushed in the middle of a resume and given up: asked for once more, so that the broker says when it is done. */
TEST(resume, settles_what_was_given_up_in_the_middle_of_it) {
        const struct pb_slot_range range = { .first_page = 9, .n_pages = 1, .intent = PB_INTENT_READ };
        uint16_t slot;

        start(PB_ROLE_DEVICE);
        slot = (uint16_t) slot_claim(client);
        slot_fill(client, slot, PB_SLOT_ENSURE, 0, &range, 1);
        client->generation |= 1;
        slots_push(client, &slot, 1);
        slot_abandon(client, slot);
        client->ring->ready[0] = 0; /* the next broker's clearing */
        client->generation += 1;
        for (unsigned i = 1; i < PB_RING_SLOTS; i++)
                cr_assert_geq(slot_claim(client), 0);
        cr_assert_eq(slot_claim(client), -EAGAIN);
        cr_assert_eq(client->ring->ready[0], 1, "pushed again");
        order_outcome_store(&fake->state->outcome[slot], outcome_make(client->slots[slot].sequence, -EIO));
        cr_assert_eq(slot_claim(client), slot);
        stop();
}

/* ---- asynchronous requests ---- */

static unsigned reap_into(unsigned *seen, unsigned n_cookies) {
        struct pb_completion completions[16];
        int n = pb_reap(client, completions, 16);

        cr_assert_geq(n, 0, "%s", strerror(-n));
        for (int i = 0; i < n; i++) {
                cr_assert_eq(completions[i].result, 0);
                cr_assert_lt(completions[i].cookie, n_cookies);
                seen[completions[i].cookie]++;
        }
        return (unsigned) n;
}

TEST(resume, completes_every_cookie_once) {
        struct fake_request requests[40];
        unsigned seen[40] = {}, n = 0;

        start(PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 40; i++)
                cr_assert_eq(pb_submit(client, RANGE(i * 3), 1, i), 0);
        for (unsigned i = 0; i < 40; i++)
                fake_expect(fake, &requests[i]);
        for (unsigned i = 0; i < 20; i++)
                fake_satisfy(fake, &requests[i]);
        /* Ten of them reaped, ten announced and unread, twenty under way. */
        n = (unsigned) pb_reap(client, (struct pb_completion[10]) {}, 10);
        cr_assert_eq(n, 10);
        restart();
        fake_serve(fake);
        while (n < 40) {
                cr_assert(wait_readable(pb_get_fd(client)));
                n += reap_into(seen, 40);
        }
        cr_assert_eq(n, 40);
        for (unsigned i = 0; i < 40; i++)
                cr_assert_leq(seen[i], 1);
        cr_assert_eq(reap_into(seen, 40), 0);
        /* And the slots are free again. */
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                cr_assert_eq(client->async[i], 0);
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++) {
                cr_assert_eq(client->pushing[i], 0);
                cr_assert_eq(client->request_busy[i], 0);
        }
        stop();
}

TEST(resume, an_event_loop_gets_there_by_reaping_alone) {
        unsigned seen[2] = {}, n = 0;

        start(PB_ROLE_DEVICE);
        cr_assert_eq(pb_submit(client, RANGE(5), 1, 0), 0);
        fake_die(fake);
        cr_assert(wait_readable(pb_get_fd(client)));
        cr_assert_eq(reap_into(seen, 2), 0, "no error while there may be a next one");
        cr_assert_eq(pb_submit(client, RANGE(6), 1, 1), 0, "nor for what is asked meanwhile");
        fake_succeed(fake);
        fake_start(fake);
        fake_serve(fake);
        while (n < 2) {
                cr_assert(wait_readable(pb_get_fd(client)));
                n += reap_into(seen, 2);
        }
        cr_assert_eq(seen[0], 1);
        cr_assert_eq(seen[1], 1);
        stop();
}

/* What the old broker's socket left behind would be readable for ever. */
TEST(resume, an_event_loop_does_not_spin_while_there_is_no_broker) {
        unsigned seen[1] = {};

        start(PB_ROLE_DEVICE);
        fake_die(fake);
        cr_assert(wait_readable(pb_get_fd(client)));
        cr_assert_eq(reap_into(seen, 1), 0);
        /* Far away, so that the timer does not come in between. */
        __atomic_store_n(&client->resume.next_us, UINT64_MAX, __ATOMIC_RELAXED);
        cr_assert(EVENTUALLY(reap_into(seen, 1) == 0 && !is_readable(pb_get_fd(client))));
        fake_succeed(fake);
        stop();
}

TEST(resume, a_submitter_that_comes_late_does_no_harm) {
        unsigned seen[1] = {}, n = 0;
        struct fake_request request;
        unsigned slot;

        start(PB_ROLE_DEVICE);
        cr_assert_eq(pb_submit(client, RANGE(5), 1, 0), 0);
        fake_expect(fake, &request);
        slot = request.slot;
        /* As if pb_submit() had not come to its end. */
        (void) bitmap_set(client->pushing, slot);
        restart();
        fake_serve(fake);
        while (n < 1) {
                cr_assert(wait_readable(pb_get_fd(client)));
                n += reap_into(seen, 1);
        }
        cr_assert_eq(client->busy[0] >> slot & 1, 1, "the slot is not used while it may still be pushed");
        cr_assert_not(bitmap_clear(client->pushing, slot), "the harvester has left it to the submitter");
        stop();
}
