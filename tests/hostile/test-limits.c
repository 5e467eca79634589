/* SPDX-License-Identifier: MIT */
/* A client over one of its limits waits for itself, or is refused: nobody else is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

/* Of a slice each, so that no two share a read. */
#define SLICE 64u
#define SLOW_PAGES 4096u

/* Beside the honest client's memory one whose source does not answer. */
struct slow_scene {
        struct scene scene;
        struct test_image slow;
        struct test_gate gate;
};

static void slow_open(struct slow_scene *slow, const char *limit) {
        require_fuse();
        test_image_make(&slow->slow, &(struct test_image_spec) { .seed = 82, .n_pages = SLOW_PAGES });
        test_gate_start(&slow->gate, &slow->slow);
        test_gate_hold(&slow->gate, 0, SLOW_PAGES * TEST_PAGE);
        SCENE_OPEN(&slow->scene, test_gate_memory("slow", &slow->gate, ""), limit);
}

static void slow_close(struct slow_scene *slow) {
        scene_close(&slow->scene);
        test_gate_stop(&slow->gate);
        test_image_unlink(&slow->slow);
}

static void submit(struct raw *raw, uint32_t slot, uint64_t first_page, uint64_t n_pages) {
        struct raw_push push = raw_want(first_page, n_pages);

        push.ranges[0].memory = 1;
        raw_submit(raw, slot, &push);
}

static uint64_t count_reads(struct slow_scene *slow, uint64_t first_page, uint64_t n_pages) {
        return test_gate_count(&slow->gate, first_page * TEST_PAGE, n_pages * TEST_PAGE);
}

/* Another client of the same slow memory gets its own read begun: so whatever the first one pushed has been looked at. */
static void assert_other_is_begun(struct slow_scene *slow, struct raw *other, uint64_t page) {
        submit(other, 0, page, 1);
        test_gate_wait_arrived(&slow->gate, page * TEST_PAGE, TEST_PAGE, 1);
        scene_assert_served(&slow->scene);
}

static void assert_all_right(struct slow_scene *slow, struct raw *raw, uint64_t first_page, uint64_t n_pages) {
        for (uint64_t page = first_page; page < first_page + n_pages; page++)
                cr_assert(test_image_expect(&slow->slow, page, raw->memory[1] + page * TEST_PAGE));
}

TEST(limits, requests_over_the_limit_wait_for_the_same_clients_others) {
        struct slow_scene slow;
        struct raw greedy, other;

        slow_open(&slow, "--client-requests=2");
        cr_assert(raw_open(&greedy, slow.scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert(raw_open(&other, slow.scene.broker.address, PB_AS_DEVICE) == 0);
        for (uint32_t slot = 0; slot < 10; slot++)
                submit(&greedy, slot, slot * SLICE, 1);
        cr_assert(EVENTUALLY(raw_is_taken(&greedy, 9)));
        assert_other_is_begun(&slow, &other, 20 * SLICE);
        cr_assert_eq(count_reads(&slow, 0, 10 * SLICE), 2);
        /* Said once, when it is first held back; and at its end how often it was. */
        cr_assert(test_broker_will_log(&slow.scene.broker,
                                       "client hostile has 2 requests and 0 MiB under way, as much as it may "
                                       "(--client-requests=2, --client-bytes=256M): others of its own wait\n"));
        test_gate_open(&slow.gate);
        for (uint32_t slot = 0; slot < 10; slot++) {
                cr_assert_eq(raw_wait_outcome(&greedy, slot), 0);
                assert_all_right(&slow, &greedy, slot * SLICE, 1);
        }
        cr_assert_eq(raw_wait_outcome(&other, 0), 0);
        raw_close(&greedy);
        cr_assert(test_broker_will_log(&slow.scene.broker, "; 8 of its requests were held back by its limits\n"));
        raw_close(&other);
        slow_close(&slow);
}

/* 4 MiB are 16 slices, which is one large request. */
TEST(limits, bytes_over_the_limit_wait_for_the_same_clients_others) {
        struct slow_scene slow;
        struct raw greedy, other;

        slow_open(&slow, "--client-bytes=4M");
        cr_assert(raw_open(&greedy, slow.scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert(raw_open(&other, slow.scene.broker.address, PB_AS_DEVICE) == 0);
        submit(&greedy, 0, 0, 16 * SLICE);
        submit(&greedy, 1, 16 * SLICE, 1);
        cr_assert(EVENTUALLY(raw_is_taken(&greedy, 1)));
        test_gate_wait_arrived(&slow.gate, 0, 16 * SLICE * TEST_PAGE, 16);
        assert_other_is_begun(&slow, &other, 40 * SLICE);
        cr_assert_eq(count_reads(&slow, 16 * SLICE, SLICE), 0);
        test_gate_open(&slow.gate);
        cr_assert_eq(raw_wait_outcome(&greedy, 0), 0);
        cr_assert_eq(raw_wait_outcome(&greedy, 1), 0);
        assert_all_right(&slow, &greedy, 0, 16 * SLICE + 1);
        cr_assert_eq(raw_wait_outcome(&other, 0), 0);
        raw_close(&greedy);
        raw_close(&other);
        slow_close(&slow);
}

TEST(limits, prefetches_over_the_limit_are_refused) {
        struct raw_push push = { .op = PB_SLOT_PREFETCH, .n_ranges = 1 };
        struct slow_scene slow;
        struct raw greedy;

        slow_open(&slow, "--client-requests=1");
        cr_assert(raw_open(&greedy, slow.scene.broker.address, PB_AS_DEVICE) == 0);
        submit(&greedy, 0, 0, 1);
        cr_assert(EVENTUALLY(raw_is_taken(&greedy, 0)));
        push.ranges[0] = (struct pb_slot_range) { .memory = 1, .first_page = SLICE, .n_pages = 1 };
        cr_assert_eq(raw_request(&greedy, 1, &push), -EAGAIN);
        scene_assert_served(&slow.scene);
        cr_assert_eq(count_reads(&slow, SLICE, SLICE), 0);
        test_gate_open(&slow.gate);
        cr_assert_eq(raw_wait_outcome(&greedy, 0), 0);
        raw_close(&greedy);
        slow_close(&slow);
}

TEST(limits, userfaultfds_over_the_limit_of_one_client_are_refused_and_anothers_are_not) {
        struct scene scene;
        struct raw greedy, other;
        int uffds[4];

        require_uffd();
        SCENE_OPEN(&scene, "--client-descriptors=3");
        cr_assert(raw_open(&greedy, scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert(raw_open(&other, scene.broker.address, PB_AS_DEVICE) == 0);
        for (unsigned i = 0; i < ELEMENTS(uffds); i++) {
                uffds[i] = test_uffd_open();
                cr_assert_eq(raw_attach(&greedy, uffds[i], NULL), i < 3 ? 0 : -ENOSPC);
        }
        cr_assert(strstr(greedy.text, "from one client"), "%s", greedy.text);
        cr_assert(test_broker_will_log(
                &scene.broker, "its userfaultfd is not served: too many userfaultfds from one client; it has 3\n"));
        cr_assert_eq(raw_attach(&other, uffds[3], NULL), 0);
        scene_assert_served(&scene);
        for (uint32_t peer = 1; peer <= 4; peer++) {
                struct pb_message_detach_peer detach = {
                        .header = { .type = PB_MSG_DETACH_PEER, .size = sizeof detach, .serial = 5 }, .peer = peer
                };

                (void) raw_call(peer < 4 ? &greedy : &other, &detach, sizeof detach, -1, NULL);
        }
        for (unsigned i = 0; i < ELEMENTS(uffds); i++)
                (void) close(uffds[i]);
        raw_close(&greedy);
        raw_close(&other);
        scene_close(&scene);
}
