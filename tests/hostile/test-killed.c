/* SPDX-License-Identifier: MIT */
/* A client that is killed at each point of a request, with another one waiting for the same page. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"

enum point {
        SLOT_CLAIMED, /* half-written: the first field only */
        SLOT_WRITTEN,
        READY_BIT,
        SUMMARY,
        DOORBELL,
        TAKEN,     /* and waiting, its fetch under way */
        COMPLETED, /* asynchronous, and not reaped */
        N_POINTS,
};

struct victim {
        struct scene *scene;
        enum point point;
        uint64_t page; /* of memory 1, whose source does not answer */
        uint32_t *there;
};

static int die_at(void *arg) {
        struct victim *victim = arg;
        struct raw_push push = raw_want(victim->page, 1);
        struct raw raw;

        push.ranges[0].memory = 1;
        CHILD_CHECK(raw_open(&raw, victim->scene->broker.address, PB_AS_DEVICE) == 0);
        if (victim->point == SLOT_CLAIMED)
                raw.ring->slots[3].sequence = 1;
        if (victim->point >= SLOT_WRITTEN)
                raw_write_slot(&raw, 3, &push);
        if (victim->point >= READY_BIT)
                raw_set_ready(&raw, 3);
        if (victim->point >= SUMMARY)
                raw_set_summary(&raw, 3);
        if (victim->point >= DOORBELL)
                raw_ring_doorbell(&raw);
        if (victim->point >= TAKEN)
                CHILD_CHECK(EVENTUALLY(raw_is_taken(&raw, 3)));
        if (victim->point >= COMPLETED) {
                push = raw_want(1, 1);
                push.flags = PB_SLOT_ASYNC;
                CHILD_CHECK(raw_request(&raw, 4, &push) == 0);
        }
        __atomic_store_n(victim->there, 1, __ATOMIC_RELEASE);
        return pause();
}

static void kill_at(struct scene *scene, struct test_gate *gate, struct raw *other, struct victim *victim) {
        uint64_t offset = victim->page * TEST_PAGE;
        struct raw_push push = raw_want(victim->page, 1);
        pid_t pid;

        push.ranges[0].memory = 1;
        *victim->there = 0;
        test_gate_hold(gate, offset, TEST_PAGE);
        pid = test_child_start((uid_t) -1, die_at, victim);
        cr_assert(EVENTUALLY(__atomic_load_n(victim->there, __ATOMIC_ACQUIRE)));
        raw_submit(other, (uint32_t) victim->point, &push);
        test_gate_wait_held(gate, offset, TEST_PAGE, 1);
        cr_assert(EVENTUALLY(raw_is_taken(other, (uint32_t) victim->point)));
        (void) kill(pid, SIGKILL);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        if (victim->point == TAKEN)
                cr_assert(test_broker_will_log(&scene->broker,
                                               "client hostile was in the middle of a request when its connection "
                                               "ended: page 389 of memory slow was still absent\n"));
        /* Its session is gone before the bytes come. */
        scene_assert_served(scene);
        cr_assert(raw_is_taken(other, (uint32_t) victim->point));
        test_gate_release(gate, offset, TEST_PAGE);
        cr_assert_eq(raw_wait_outcome(other, (uint32_t) victim->point), 0);
        test_image_assert(gate->image, victim->page, 1, other->memory[1] + offset);
}

TEST(killed, at_each_point_of_a_request_others_get_the_page) {
        struct victim victim = { .there = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
        struct test_image image;
        struct test_gate gate;
        struct scene scene;
        struct raw other;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 5, .n_pages = 1024 });
        test_gate_start(&gate, &image);
        SCENE_OPEN(&scene, test_gate_memory("slow", &gate, ""));
        cr_assert(raw_open(&other, scene.broker.address, PB_AS_DEVICE) == 0);
        victim.scene = &scene;
        for (victim.point = SLOT_CLAIMED; victim.point < N_POINTS; victim.point++) {
                victim.page = 64 * (victim.point + 1) + 5;
                kill_at(&scene, &gate, &other, &victim);
        }
        raw_close(&other);
        (void) munmap(victim.there, 4096);
        scene_close(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}
