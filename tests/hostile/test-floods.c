/* SPDX-License-Identifier: MIT */
/* Too much of everything. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

TEST(floods, connections_beyond_the_limit_are_refused_and_the_places_come_back) {
        int sockets[60];
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene, "--client-limit=10");
        for (unsigned i = 0; i < ELEMENTS(sockets); i++)
                sockets[i] = raw_socket(scene.broker.address);
        scene_assert_logged(&scene, "--client-limit");
        scene_assert_served(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) < 0);
        for (unsigned i = 0; i < ELEMENTS(sockets); i++)
                if (sockets[i] >= 0)
                        (void) close(sockets[i]);
        cr_assert(EVENTUALLY(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0));
        raw_close(&raw);
        scene_close(&scene);
}

TEST(floods, connections_that_never_say_hello_are_hung_up_on) {
        struct pollfd silent[30];
        struct scene scene;

        SCENE_OPEN(&scene);
        for (unsigned i = 0; i < ELEMENTS(silent); i++)
                silent[i] = (struct pollfd) { .fd = raw_socket(scene.broker.address), .events = POLLIN };
        scene_assert_served(&scene);
        for (unsigned i = 0; i < ELEMENTS(silent); i++) {
                cr_assert(poll(&silent[i], 1, TEST_PATIENCE_US / USEC_PER_MSEC) == 1);
                (void) close(silent[i].fd);
        }
        scene_assert_logged(&scene, "did not say HELLO");
        scene_close(&scene);
}

/* Whoever may reach the socket can be refused as often as he likes. */
TEST(floods, refusals_hide_no_line_about_a_client_from_the_log) {
        struct scene scene;
        char line[128];
        struct raw raw;

        SCENE_OPEN(&scene);
        for (unsigned i = 0; i < 200; i++)
                cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE_RO) < 0);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        (void) snprintf(line, sizeof line, "client hostile (pid %d, uid %u) connected as device\n", (int) getpid(),
                        (unsigned) getuid());
        scene_assert_logged(&scene, line);
        raw_close(&raw);
        scene_close(&scene);
}

static void push_everything(struct raw *raw, const struct raw_push *push, uint64_t spread) {
        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                struct raw_push one = *push;

                for (unsigned i = 0; i < one.n_ranges; i++)
                        one.ranges[i].first_page = (one.ranges[i].first_page + slot * spread) % SCENE_PAGES;
                raw_write_slot(raw, slot, &one);
                raw_set_ready(raw, slot);
        }
        (void) __atomic_fetch_or(&raw->ring->summary, 0xffff, __ATOMIC_SEQ_CST);
        raw_ring_doorbell(raw);
}

TEST(floods, requests_of_many_sessions_delay_an_honest_one_by_a_bounded_time) {
        struct raw_push push = raw_want(0, 1);
        struct scene scene;
        struct raw raws[8];

        SCENE_OPEN(&scene);
        push.n_ranges = PB_SLOT_RANGES;
        for (unsigned i = 0; i < PB_SLOT_RANGES; i++)
                push.ranges[i] =
                        (struct pb_slot_range) { .first_page = i * 777, .n_pages = 1, .intent = PB_INTENT_READ };
        for (unsigned i = 0; i < ELEMENTS(raws); i++)
                cr_assert(raw_open(&raws[i], scene.broker.address, PB_AS_DEVICE) == 0);
        for (unsigned round = 0; round < 3; round++) {
                for (unsigned i = 0; i < ELEMENTS(raws); i++)
                        push_everything(&raws[i], &push, 13 + i);
                scene_assert_served(&scene);
                for (unsigned i = 0; i < ELEMENTS(raws); i++)
                        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++)
                                cr_assert_eq(raw_wait_outcome(&raws[i], slot), 0);
        }
        for (unsigned i = 0; i < ELEMENTS(raws); i++)
                raw_close(&raws[i]);
        scene_close(&scene);
}

#define TIB_PAGES (1ull << (40 - PB_PAGE_BITS))

TEST(floods, prefetches_over_a_tebibyte_cost_a_window_each) {
        struct raw_push push = { .op = PB_SLOT_PREFETCH, .n_ranges = PB_SLOT_RANGES };
        unsigned n_refused = 0;
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene, "--memory=big,size=1T");
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        for (unsigned i = 0; i < PB_SLOT_RANGES; i++)
                push.ranges[i] = (struct pb_slot_range) { .n_pages = TIB_PAGES, .memory = 1 };
        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                raw_write_slot(&raw, slot, &push);
                raw_set_ready(&raw, slot);
                raw_set_summary(&raw, slot);
        }
        raw_ring_doorbell(&raw);
        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                int r = raw_wait_outcome(&raw, slot);

                cr_assert(r == 0 || r == -EAGAIN);
                n_refused += r == -EAGAIN;
        }
        cr_assert(n_refused > PB_RING_SLOTS / 2);
        scene_assert_served(&scene);
        cr_assert(test_broker_rss_kib(&scene.broker) < scene.rss_kib + (32 << 10));
        raw_close(&raw);
        scene_close(&scene);
}

/* A demand for everything, by every slot: more than the session may have in flight. */
TEST(floods, demands_for_a_tebibyte_by_every_slot_stay_small) {
        struct raw_push push = { .op = PB_SLOT_ENSURE,
                                 .n_ranges = 1,
                                 .ranges = { { .n_pages = TIB_PAGES, .memory = 1, .intent = PB_INTENT_READ } } };
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene, "--memory=big,size=1T");
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        for (uint32_t slot = 0; slot < PB_RING_SLOTS; slot++) {
                raw_write_slot(&raw, slot, &push);
                raw_set_ready(&raw, slot);
                raw_set_summary(&raw, slot);
        }
        raw_ring_doorbell(&raw);
        cr_assert(EVENTUALLY(raw_is_taken(&raw, PB_RING_SLOTS - 1)));
        scene_assert_served(&scene);
        cr_assert(test_broker_rss_kib(&scene.broker) < scene.rss_kib + (32 << 10));
        raw_close(&raw);
        scene_close(&scene);
}

struct attacher {
        char address[96];
        uint32_t n_attached;
        int error;
        uint32_t full;
};

/* Attaches until it is refused, over one connection after the other, and lives on. */
static int attach_for_ever(void *arg) {
        struct attacher *attacher = arg;

        while (attacher->error == 0 && attacher->n_attached < 4000) {
                struct raw raw;

                CHILD_CHECK(raw_open(&raw, attacher->address, PB_AS_DEVICE) == 0);
                for (int r = 0; r == 0;) {
                        int uffd = test_uffd_open();

                        r = raw_attach(&raw, uffd, NULL);
                        (void) close(uffd);
                        if (r == 0)
                                attacher->n_attached++;
                        else if (attacher->n_attached % 256 || attacher->n_attached == 0)
                                attacher->error = r;
                        else if (raw.text[0] && strstr(raw.text, "one client") == NULL)
                                attacher->error = r;
                }
                raw_close(&raw);
        }
        __atomic_store_n(&attacher->full, 1, __ATOMIC_RELEASE);
        return pause();
}

TEST(floods, userfaultfds_are_counted_over_connections_that_have_closed) {
        struct attacher *attacher = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct scene scene;
        struct raw raw;
        pid_t pid;
        int uffd;

        require_uffd();
        SCENE_OPEN(&scene);
        (void) memcpy(attacher->address, scene.broker.address, sizeof attacher->address);
        pid = test_child_start((uid_t) -1, attach_for_ever, attacher);
        cr_assert(EVENTUALLY(__atomic_load_n(&attacher->full, __ATOMIC_ACQUIRE)));
        cr_assert(attacher->error == -ENOSPC, "%s after %u", strerror(-attacher->error), attacher->n_attached);
        cr_assert(attacher->n_attached >= 256 && attacher->n_attached <= 1024, "%u were attached",
                  attacher->n_attached);
        scene_assert_served(&scene);
        /* The VMM has places of its own. */
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_VMM) == 0);
        uffd = test_uffd_open();
        cr_assert_eq(raw_attach(&raw, uffd, NULL), 0);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        struct pb_message_detach_peer detach = {
                .header = { .type = PB_MSG_DETACH_PEER, .size = sizeof detach, .serial = 5 },
                .peer = attacher->n_attached + 1
        };

        (void) raw_call(&raw, &detach, sizeof detach, -1, NULL);
        (void) close(uffd);
        raw_close(&raw);
        (void) munmap(attacher, 4096);
        scene_close(&scene);
}
