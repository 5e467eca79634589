/* SPDX-License-Identifier: MIT */
/* Who holds the presence map can move others' waiters. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/connect.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"

#define HELD_PAGE 40u

struct waiter {
        pb_client *client;
        uint64_t gpa;
        uint64_t done_us;
        pid_t tid;
        int result;
};

static void *wait_for_page(void *arg) {
        struct waiter *waiter = arg;

        __atomic_store_n(&waiter->tid, (pid_t) syscall(SYS_gettid), __ATOMIC_RELEASE);
        waiter->result = pb_ensure(waiter->client, waiter->gpa, TEST_PAGE, PB_READ);
        __atomic_store_n(&waiter->done_us, clock_now_us(), __ATOMIC_RELEASE);
        return NULL;
}

struct mover {
        const struct scene *scene;
        uint32_t *moved, *stop; /* shared */
};

/* Under another uid, read-only: moves whoever waits for the page to a word where nobody wakes. */
static int move_waiters(void *arg) {
        struct mover *mover = arg;
        struct raw raw;
        uint32_t *words;

        CHILD_CHECK(raw_open(&raw, mover->scene->broker.address, PB_AS_DEVICE_RO) == 0);
        words = (uint32_t *) (uintptr_t) ((const char *) raw.header[1] + raw.header[1]->present_offset);
        while (!__atomic_load_n(mover->stop, __ATOMIC_ACQUIRE)) {
                long n = syscall(SYS_futex, &words[HELD_PAGE / 32], FUTEX_REQUEUE, 0, (void *) 1000ul,
                                 &raw.header[1]->n_pages, 0);

                if (n > 0)
                        (void) __atomic_fetch_add(mover->moved, (uint32_t) n, __ATOMIC_ACQ_REL);
        }
        raw_close(&raw);
        return 0;
}

TEST(waiters, moved_away_by_a_reader_wait_no_longer_than_a_slice) {
        uint32_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct scene scene;
        struct mover mover = { .scene = &scene, .moved = &shared[0], .stop = &shared[1] };
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE };
        struct waiter waiter = {};
        struct test_image image;
        struct test_gate gate;
        uint64_t released_us;
        pthread_t thread;
        pid_t pid;

        require_other_uid();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 3, .n_pages = 256 });
        test_gate_start(&gate, &image);
        SCENE_OPEN(&scene, test_gate_memory("slow", &gate, ""), "--allow=device:0", "--allow=device-ro:65534");
        test_gate_hold(&gate, HELD_PAGE * TEST_PAGE, TEST_PAGE);
        /* Its wake will be lost, by somebody else's fault: that is not to be looked into. */
        cr_assert_eq(pb_connect(&waiter.client, scene.broker.address, &options), 0);
        waiter.gpa = SCENE_PAGES * (uint64_t) TEST_PAGE + HELD_PAGE * TEST_PAGE;
        pid = test_child_start(TEST_OTHER_UID, move_waiters, &mover);
        cr_assert(pthread_create(&thread, NULL, wait_for_page, &waiter) == 0);
        test_gate_wait_held(&gate, HELD_PAGE * TEST_PAGE, TEST_PAGE, 1);
        cr_assert(EVENTUALLY(__atomic_load_n(mover.moved, __ATOMIC_ACQUIRE) > 0), "nobody was moved");
        released_us = clock_now_us();
        test_gate_release(&gate, HELD_PAGE * TEST_PAGE, TEST_PAGE);
        (void) pthread_join(thread, NULL);
        cr_assert_eq(waiter.result, 0);
        cr_assert(waiter.done_us - released_us < SCENE_DELAY_MAX_US, "it took %llu us",
                  (unsigned long long) (waiter.done_us - released_us));
        test_ensure_and_check(waiter.client, &image, waiter.gpa, TEST_PAGE);
        __atomic_store_n(mover.stop, 1, __ATOMIC_RELEASE);
        cr_assert_eq(test_child_wait(pid), 0);
        (void) pb_disconnect(waiter.client);
        (void) munmap(shared, 4096);
        scene_close(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}
