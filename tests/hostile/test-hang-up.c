/* SPDX-License-Identifier: MIT */
/* Clients that go, or stop, in the middle of something. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "common/packet.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"

/* The pager finds the violation while the control thread finds the end. */
TEST(hang_up, in_the_moment_of_a_violation_is_survived_and_logged) {
        struct raw_push all = raw_want(0, 64);
        struct scene scene;

        SCENE_OPEN(&scene);
        for (unsigned round = 0; round < 300; round++) {
                struct raw raw;

                cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
                all.ranges[0].first_page = 64 * (round % 256);
                raw_submit(&raw, round % PB_RING_SLOTS, &all);
                if (round % 3 == 0)
                        (void) raw_send(&raw, "garbage", 7, NULL, 0);
                (void) __atomic_fetch_or(&raw.ring->summary, 1u << 31, __ATOMIC_SEQ_CST);
                raw_ring_doorbell(&raw);
                if (round % 3 == 1)
                        (void) raw_send(&raw, "garbage", 7, NULL, 0);
                raw_close(&raw);
        }
        scene_assert_logged(&scene, "summary bit that stands for nothing");
        scene_close(&scene);
}

TEST(hang_up, of_the_control_socket_ends_the_session_whatever_else_is_kept) {
        struct raw_push want = raw_want(SCENE_LAST_PAGE, 1);
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        raw.socket = fd_close(raw.socket);
        cr_assert(EVENTUALLY(__atomic_load_n(&raw.state->closed, __ATOMIC_ACQUIRE)));
        scene_assert_recovered(&scene);
        raw_submit(&raw, 0, &want);
        scene_assert_served(&scene);
        cr_assert(!raw_is_present(&raw, SCENE_LAST_PAGE));
        raw_close(&raw);
        scene_close(&scene);
}

/* The client has lost its connection, which the broker has not noticed: two sessions would take requests out of one ring. */
TEST(hang_up, is_what_an_older_session_gets_when_its_ring_is_presented_again) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        struct raw_push want = raw_want(SCENE_LAST_PAGE, 1);
        struct raw old, again;
        struct scene scene;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&old, scene.broker.address, PB_AS_DEVICE) == 0);
        hello.epoch = old.state->epoch;
        cr_assert_eq(raw_resume(&again, raw_socket(scene.broker.address), &hello, old.ring_fd), 0);
        /* Before the answer: what is pushed from now on is for the new one alone. */
        cr_assert(__atomic_load_n(&old.state->closed, __ATOMIC_ACQUIRE));
        cr_assert(!__atomic_load_n(&again.state->closed, __ATOMIC_ACQUIRE));
        cr_assert(raw_is_hung_up(&old));
        cr_assert_eq(raw_request(&again, 3, &want), 0);
        cr_assert(!raw_is_taken(&old, 3), "the older session took it");
        test_image_assert(&scene.image, SCENE_LAST_PAGE, 1, again.memory[0] + SCENE_LAST_PAGE * TEST_PAGE);
        raw_close(&old);
        raw_close(&again);
        scene_close(&scene);
}

static int push_and_wait(void *arg) {
        struct scene *scene = arg;
        struct raw raw;

        CHILD_CHECK(raw_open(&raw, scene->broker.address, PB_AS_VMM) == 0);
        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                struct raw_push push = raw_want(slot * 8, 8);

                push.flags = PB_SLOT_ASYNC;
                raw_submit(&raw, slot, &push);
        }
        (void) raise(SIGSTOP);
        return 1;
}

TEST(hang_up, stopped_client_holds_up_nobody) {
        struct scene scene;
        pid_t pid;

        SCENE_OPEN(&scene);
        pid = test_child_start((uid_t) -1, push_and_wait, &scene);
        cr_assert(EVENTUALLY(test_thread_state(pid, pid) == 'T'));
        scene_assert_served(&scene);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        scene_close(&scene);
}

TEST(hang_up, client_that_reads_no_answers_is_hung_up_on) {
        struct pb_message_plain stats = { .header = { .type = PB_MSG_STATS, .size = sizeof stats, .serial = 1 } };
        struct scene scene;
        struct raw raw;
        int r = 0;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_OBSERVER) == 0);
        for (unsigned i = 0; i < 100000 && r == 0; i++)
                r = raw_send(&raw, &stats, sizeof stats, NULL, 0);
        cr_assert(r == -EPIPE || r == -ECONNRESET, "it goes on taking calls: %d", r);
        scene_assert_served(&scene);
        raw_close(&raw);
        scene_close(&scene);
}

/* One round of everything that makes the broker allocate. */
static void attack_once(struct scene *scene) {
        for (unsigned i = 0; i < 20; i++) {
                struct raw raw;

                cr_assert(raw_open(&raw, scene->broker.address, PB_AS_VMM) == 0);
                for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                        struct raw_push push = raw_want((slot * 29 + i) % SCENE_PAGES, 1);

                        push.op = slot % 3 ? PB_SLOT_ENSURE : PB_SLOT_PREFETCH;
                        push.ranges[0].intent = slot % 3 ? PB_INTENT_READ : 0;
                        raw_submit(&raw, slot, &push);
                }
                raw_close(&raw);
        }
        scene_assert_recovered(scene);
}

TEST(growth, stops_after_the_first_rounds_of_the_same_attack) {
        struct scene scene;
        long first, last;

        if (TEST_SANITIZED)
                cr_skip_test("a sanitizer keeps what was freed");
        SCENE_OPEN(&scene);
        for (unsigned i = 0; i < 3; i++)
                attack_once(&scene);
        first = test_broker_rss_kib(&scene.broker);
        for (unsigned i = 0; i < 8; i++)
                attack_once(&scene);
        last = test_broker_rss_kib(&scene.broker);
        cr_assert(last <= first + 512, "%ld KiB, then %ld", first, last);
        scene_close(&scene);
}
