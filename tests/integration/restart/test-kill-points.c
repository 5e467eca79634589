/* SPDX-License-Identifier: MIT */
/*
 * The broker dies at each place where it could have done one half of something: in the take-over, and while it serves
 * processes under userfaultfd. $PB_KILLS says how often at each.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/peer/peer.h"
#include "tests/integration/restart/kill.h"
#include "tests/lib/gate.h"

#define N_PAGES 4096u

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Whose file is never in page cache: each read is sent and comes back. */
static struct test_gate gate;

static void start(struct test_broker *broker) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 321, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { test_gate_memory("ram0", &gate, ""), "--fill=off",
                                                                          "--fault-around=4K", NULL },
                                  });
}

static void stop(struct test_broker *broker, struct kill_order *order) {
        test_broker_stop(broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
        kill_order_free(order);
}

/* ---- in the take-over ---- */

static const char *const take_over_points[] = { "takeover-waited", "takeover-kept", "takeover-entered", "takeover-dropped" };

TEST(kill_points, of_the_take_over) {
        struct kill_order *order = kill_order_new();
        struct test_broker broker;
        uint64_t life = 0;
        pb_client *client;

        start(&broker);
        for (int i = 0; i < (int) kill_count(); i++)
                for (unsigned p = 0; p < sizeof take_over_points / sizeof take_over_points[0]; p++, life++) {
                        client = test_connect(&broker, PB_ROLE_DEVICE);
                        cr_assert(ensure_is_right(client, images, life * 16 * TEST_PAGE, 16 * TEST_PAGE));
                        client = test_disconnect(client);
                        kill_order_give(order, take_over_points[p], 0);
                        test_broker_kill_served(&broker);
                        test_broker_wait_next(&broker);
                        cr_assert(kill_order_is_done(order), "nobody died at %s", take_over_points[p]);
                        client = test_connect(&broker, PB_ROLE_DEVICE);
                        cr_assert(EVENTUALLY(get_stats(client).pages_present == (life + 1) * 16), "after %s", take_over_points[p]);
                        cr_assert(pb_is_present(client, 0, (life + 1) * 16 * TEST_PAGE));
                        cr_assert(ensure_is_right(client, images, 0, (life + 1) * 16 * TEST_PAGE));
                        client = test_disconnect(client);
                }
        stop(&broker, order);
}

/* The first of all, which has no predecessor: nobody has been served, and the second one begins anew. */
TEST(kill_points, of_the_first_start) {
        for (unsigned p = 0; p < sizeof take_over_points / sizeof take_over_points[0]; p++) {
                struct kill_order *order = kill_order_new();
                struct test_broker broker;
                pb_client *client;

                kill_order_give(order, take_over_points[p], 0);
                start(&broker);
                cr_assert(kill_order_is_done(order), "nobody died at %s", take_over_points[p]);
                client = test_connect(&broker, PB_ROLE_DEVICE);
                cr_assert(ensure_is_right(client, images, 0, 64 * TEST_PAGE));
                client = test_disconnect(client);
                test_broker_kill_served(&broker);
                test_broker_wait_next(&broker);
                client = test_connect(&broker, PB_ROLE_DEVICE);
                cr_assert(EVENTUALLY(get_stats(client).pages_present == 64));
                client = test_disconnect(client);
                stop(&broker, order);
        }
}

/* ---- while it serves ---- */

/* How far the reader is, for both processes. */
struct progress {
        atomic_uint pages;
        atomic_uint until; /* it stops there and waits */
};

static struct progress *progress;

/* Reads page by page as far as it may, and writes into every fifth page, which it looks at again at the end. */
static int read_as_told(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);

        for (unsigned page = 0; page < N_PAGES; page++) {
                while (page >= atomic_load(&progress->until))
                        (void) usleep(100);
                CHILD_CHECK(content_is_right(client, task->images, page * TEST_PAGE, TEST_PAGE));
                if (page % 5 == 0)
                        memset(memory + page * TEST_PAGE, 0x5a, TEST_PAGE);
                atomic_store(&progress->pages, page + 1);
        }
        for (unsigned page = 0; page < N_PAGES; page++)
                if (page % 5)
                        CHILD_CHECK(content_is_right(client, task->images, page * TEST_PAGE, TEST_PAGE));
                else
                        for (unsigned i = 0; i < TEST_PAGE; i++)
                                CHILD_CHECK(memory[page * TEST_PAGE + i] == 0x5a);
        return 0;
}

static pid_t start_reader(struct peer_task *task, const struct test_broker *broker,
                          int (*run)(pb_client *, const struct peer_task *), unsigned n) {
        progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(progress != MAP_FAILED);
        *task = (struct peer_task) { .broker = broker, .images = images, .shards = 2, .run = run, .n = n };
        return peer_start(task);
}

static void end_reader(pid_t pid) {
        atomic_store(&progress->until, N_PAGES);
        cr_assert_eq(test_child_wait(pid), 0);
        (void) munmap(progress, sizeof *progress);
}

TEST(kill_points, of_a_fault) {
        static const char *const points[] = { "claimed", "read-sent", "read-done", "copied", "bytes-in", "bit-set", "woken",
                                              "continued", "takeover-peer" };
        struct kill_order *order;
        struct test_broker broker;
        struct peer_task task;
        unsigned until = 16;
        pid_t pid;

        require_uffd();
        order = kill_order_new();
        start(&broker);
        pid = start_reader(&task, &broker, read_as_told, N_PAGES);
        for (int i = 0; i < (int) kill_count(); i++)
                for (unsigned p = 0; p < sizeof points / sizeof points[0]; p++) {
                        bool in_take_over = strncmp(points[p], "takeover", 8) == 0;

                        kill_order_give(order, points[p], in_take_over ? 0 : i % 8);
                        if (in_take_over)
                                test_broker_kill_served(&broker);
                        until += 16;
                        atomic_store(&progress->until, until);
                        cr_assert(EVENTUALLY(atomic_load(&progress->pages) == until), "after %s: %u of %u", points[p],
                                  atomic_load(&progress->pages), until);
                        cr_assert(kill_order_is_done(order), "nobody died at %s", points[p]);
                        test_broker_wait_next(&broker);
                }
        end_reader(pid);
        stop(&broker, order);
}

/* ---- while it marks pages that cannot be had ---- */

/* Meets page by page as far as it may, each of them poisoned; in the end they come. */
static int meet_as_told(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);

        for (unsigned page = 0; page < task->n; page++) {
                while (page >= atomic_load(&progress->until))
                        (void) usleep(100);
                CHILD_CHECK(!peer_can_load(memory + page * TEST_PAGE));
                atomic_store(&progress->pages, page + 1);
        }
        while (atomic_load(&progress->until) < N_PAGES)
                (void) usleep(100);
        for (unsigned page = 0; page < task->n; page++)
                CHILD_CHECK(EVENTUALLY(peer_can_load(memory + page * TEST_PAGE)));
        CHILD_CHECK(content_is_right(client, task->images, 0, task->n * TEST_PAGE));
        return 0;
}

TEST(kill_points, of_a_mark) {
        static const char *const points[] = { "mark-entered", "marked" };
        const unsigned n = kill_count() * (sizeof points / sizeof points[0]);
        struct kill_order *order;
        struct test_broker broker;
        struct peer_task task;
        pid_t pid;

        require_uffd();
        require_fuse();
        require_kernel(6, 6);
        order = kill_order_new();
        test_image_make(&image, &(struct test_image_spec) { .seed = 322, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 0, n * TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { test_gate_memory("ram0", &gate, ""), "--fill=off",
                                                                           "--source-retries=0", "--on-error=poison", NULL },
                                   });
        pid = start_reader(&task, &broker, meet_as_told, n);
        for (unsigned page = 0; page < n; page++) {
                const char *point = points[page % (sizeof points / sizeof points[0])];

                kill_order_give(order, point, 0);
                atomic_store(&progress->until, page + 1);
                cr_assert(EVENTUALLY(atomic_load(&progress->pages) == page + 1), "after %s: %u of %u", point,
                          atomic_load(&progress->pages), page + 1);
                cr_assert(kill_order_is_done(order), "nobody died at %s", point);
                test_broker_wait_next(&broker);
        }
        test_gate_open(&gate);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        end_reader(pid);
        stop(&broker, order);
}
