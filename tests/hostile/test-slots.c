/* SPDX-License-Identifier: MIT */
/* What a client can write into its ring. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macro.h"
#include "protocol/order.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"

static void hostile_open(struct scene *scene, struct raw *raw, uint32_t role) {
        int r;

        SCENE_OPEN(scene);
        r = raw_open(raw, scene->broker.address, role);
        cr_assert(r == 0, "%s", strerror(-r));
}

TEST(slots, fields_out_of_range_are_refused_one_by_one) {
        static const struct {
                struct raw_push push;
                int outcome;
        } cases[] = {
                { { .op = 0, .n_ranges = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = 4, .n_ranges = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = 255, .n_ranges = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .flags = 2, .n_ranges = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 0, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = PB_SLOT_RANGES + 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 65535, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .padding = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .padding = 1ull << 63, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 0, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 1, 0, 0 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 1, 0, 4 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 1, 0, UINT32_MAX } } }, -EINVAL },
                { { .op = PB_SLOT_PREFETCH, .n_ranges = 1, .ranges = { { 0, 1, 0, 1 } } }, -EINVAL },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 1, 1, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 0, 1, UINT32_MAX, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { SCENE_PAGES, 1, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { SCENE_PAGES - 1, 2, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 1, UINT64_MAX, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { UINT64_MAX, 1, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { UINT64_MAX, 2, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 1, .ranges = { { 1ull << 52, 1ull << 52, 0, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_ENSURE, .n_ranges = 2, .ranges = { { 0, 1, 0, 1 }, { 0, 1, 7, 1 } } }, -EFAULT },
                { { .op = PB_SLOT_DISCARD, .n_ranges = 1, .ranges = { { 0, 1, 0, 0 } } }, -EACCES },
        };
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        for (unsigned i = 0; i < ELEMENTS(cases); i++) {
                int r = raw_request(&raw, i, &cases[i].push);

                cr_assert(r == cases[i].outcome, "case %u: outcome %d instead of %d", i, r, cases[i].outcome);
        }
        /* The session goes on. */
        struct raw_push good = raw_want(5, 3);
        cr_assert_eq(raw_request(&raw, 1023, &good), 0);
        test_image_assert(&scene.image, 5, 3, raw.memory[0] + 5 * TEST_PAGE);
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, summary_bit_that_stands_for_nothing_ends_the_session) {
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        (void) __atomic_fetch_or(&raw.ring->summary, 1u << 16, __ATOMIC_SEQ_CST);
        raw_ring_doorbell(&raw);
        cr_assert(raw_is_hung_up(&raw));
        scene_assert_logged(&scene, "summary bit that stands for nothing");
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, second_push_of_a_slot_under_way_ends_the_session) {
        struct raw_push all = raw_want(0, 1ull << (40 - PB_PAGE_BITS));
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene, "--memory=big,size=1T");
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        all.ranges[0].memory = 1; /* under way for long */
        raw_submit(&raw, 0, &all);
        cr_assert(EVENTUALLY(raw_is_taken(&raw, 0)));
        raw_submit(&raw, 0, &all);
        cr_assert(raw_is_hung_up(&raw));
        scene_assert_logged(&scene, "pushed a slot whose request is still under way");
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, unfinished_pushes_hold_up_nobody) {
        struct raw_push good = raw_want(100, 1);
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        for (uint32_t slot = 0; slot < 512; slot++)
                raw_write_slot(&raw, slot, &good); /* claimed and never pushed */
        for (uint32_t slot = 512; slot < 1000; slot++)
                raw_set_ready(&raw, slot); /* no summary */
        raw_ring_doorbell(&raw);
        cr_assert_eq(raw_request(&raw, 5, &good), 0);
        scene_assert_served(&scene);
        cr_assert_eq(raw_request(&raw, 1023, &good), 0);
        raw_close(&raw);
        scene_close(&scene);
}

struct scribbler {
        struct raw *raw;
        bool stop;
        unsigned seed;
};

static void *scribble(void *arg) {
        struct scribbler *s = arg;

        while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
                struct pb_slot *slot = &s->raw->ring->slots[rand_r(&s->seed) % 8];
                struct pb_slot_range *range = &slot->ranges[rand_r(&s->seed) % PB_SLOT_RANGES];

                order_slot_store32(&slot->head, (rand_r(&s->seed) % 8 ? PB_SLOT_ENSURE : 9) |
                                                        (uint32_t) rand_r(&s->seed) % 12 << 16);
                order_slot_store64(&range->first_page, (uint64_t) rand_r(&s->seed) % (SCENE_PAGES + SCENE_PAGES / 8));
                order_slot_store64(&range->n_pages,
                                   rand_r(&s->seed) % 8 ? (uint64_t) rand_r(&s->seed) % 512 : UINT64_MAX);
                order_slot_store32(&range->memory, rand_r(&s->seed) % 16 == 0);
                order_slot_store32(&range->intent, rand_r(&s->seed) % 16 ? PB_INTENT_READ : 9);
                order_slot_store32(&slot->sequence, (uint32_t) rand_r(&s->seed));
        }
        return NULL;
}

/* Without the intents to write, which a device may use, and which would be seen in the content. */
TEST(slots, rewritten_while_they_are_taken_do_no_harm) {
        struct scribbler s = { .seed = 1 };
        uint64_t end_us = clock_now_us() + 400000;
        struct scene scene;
        pthread_t thread;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        s.raw = &raw;
        cr_assert(pthread_create(&thread, NULL, scribble, &s) == 0);
        while (clock_now_us() < end_us) {
                for (uint32_t slot = 0; slot < 8; slot++)
                        raw_set_ready(&raw, slot);
                raw_set_summary(&raw, 0);
                raw_ring_doorbell(&raw);
                if (!__atomic_load_n(&raw.state->closed, __ATOMIC_ACQUIRE))
                        continue;
                __atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
                (void) pthread_join(thread, NULL);
                /* A push met one under way: the next session. */
                raw_close(&raw);
                cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
                s.stop = false;
                cr_assert(pthread_create(&thread, NULL, scribble, &s) == 0);
        }
        __atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
        (void) pthread_join(thread, NULL);
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, ring_cannot_be_cut_or_sealed_and_holes_in_it_harm_its_owner_only) {
        struct raw_push good = raw_want(7, 1);
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        cr_assert(ftruncate(raw.ring_fd, 0) < 0 && ftruncate(raw.ring_fd, 1 << 30) < 0);
        cr_assert(fcntl(raw.ring_fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
        cr_assert(ftruncate(raw.state_fd, 0) < 0);
        cr_assert(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, raw.state_fd, 0) == MAP_FAILED);
        cr_assert(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, raw.map[0], 0) == MAP_FAILED);
        for (unsigned i = 0; i < 200; i++) {
                cr_assert(fallocate(raw.ring_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                    sizeof(struct pb_ring)) == 0);
                raw_submit(&raw, i % 8, &good);
        }
        scene_assert_served(&scene);
        cr_assert_eq(raw_request(&raw, 900, &good), 0);
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, completions_that_are_never_read_hold_up_nobody) {
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        for (unsigned round = 0; round < 20; round++)
                for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                        struct raw_push push = raw_want(slot, 1);

                        push.flags = PB_SLOT_ASYNC;
                        raw_write_slot(&raw, slot, &push);
                        raw_set_ready(&raw, slot);
                        raw_set_summary(&raw, slot);
                        if (slot % 64 == 63)
                                raw_ring_doorbell(&raw);
                        if (slot == PB_RING_SLOTS - 1)
                                for (uint32_t i = 0; i < PB_RING_SLOTS; i++)
                                        cr_assert_eq(raw_wait_outcome(&raw, i), 0);
                }
        scene_assert_served(&scene);
        raw_close(&raw);
        scene_close(&scene);
}

TEST(slots, doorbell_filled_drained_or_made_blocking_loses_nothing) {
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, PB_AS_DEVICE);
        cr_assert(fcntl(raw.doorbell, F_SETFL, 0) == 0); /* O_NONBLOCK cleared: for the broker too */
        for (uint32_t i = 0; i < 50; i++) {
                struct raw_push push = raw_want(200 + i, 1);
                uint64_t full = UINT64_MAX - 1, value;

                raw_submit(&raw, i, &push);
                (void) !read(raw.doorbell, &value, sizeof value);
                (void) !write(raw.doorbell, &full, sizeof full);
                cr_assert_eq(raw_wait_outcome(&raw, i), 0);
                (void) !read(raw.doorbell, &value, sizeof value);
        }
        scene_assert_served(&scene);
        raw_close(&raw);
        scene_close(&scene);
}
