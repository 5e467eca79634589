/* SPDX-License-Identifier: MIT */
/*
 * Linked clients over the death of their broker: no call of theirs fails, every byte is right, also those that they wrote
 * since. $PB_KILLS says how often at each place.
 */
#include <string.h>

#include "tests/integration/peer/peer.h"
#include "tests/integration/restart/kill.h"
#include "tests/lib/gate.h"

#define N_PAGES 8192u
#define PART 16u      /* pages of one step */

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Whose file is never in page cache: each read is sent and comes back. */
static struct test_gate gate;

static void start(struct test_broker *broker, uint64_t n_pages) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 341, .n_pages = n_pages });
        test_gate_start(&gate, &image);
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { test_gate_memory("ram0", &gate, ""), "--fill=off", NULL },
                                  });
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

static bool is_filled(const char *memory, uint64_t first, uint64_t n, int value) {
        for (uint64_t i = first * TEST_PAGE; i < (first + n) * TEST_PAGE; i++)
                if (memory[i] != (char) value)
                        return false;
        return true;
}

/* One part in each way: read, written, overwritten, discarded and written again. */
static uint64_t use_parts(pb_client *client, char *memory, uint64_t page) {
        uint64_t bytes = PART * TEST_PAGE;
        int r;

        cr_assert(ensure_is_right(client, images, page * TEST_PAGE, bytes));
        page += PART;
        test_ensure(client, page * TEST_PAGE, bytes, PB_WRITE);
        memset(memory + page * TEST_PAGE, 1, bytes);
        page += PART;
        test_ensure(client, page * TEST_PAGE, bytes, PB_OVERWRITE);
        memset(memory + page * TEST_PAGE, 2, bytes);
        page += PART;
        r = pb_discard(client, page * TEST_PAGE, bytes);
        cr_assert(r == 0, "pb_discard: %s", pb_explain(client));
        cr_assert(is_zero(memory + page * TEST_PAGE, bytes));
        test_ensure(client, page * TEST_PAGE, bytes, PB_WRITE);
        memset(memory + page * TEST_PAGE, 3, bytes);
        return page + PART;
}

static void check_parts(pb_client *client, const char *memory, uint64_t end) {
        for (uint64_t page = 0; page < end; page += 4 * PART) {
                cr_assert(content_is_right(client, images, page * TEST_PAGE, PART * TEST_PAGE));
                for (int i = 1; i < 4; i++)
                        cr_assert(is_filled(memory, page + (unsigned) i * PART, PART, i), "page %u: what was written as %d",
                                  (unsigned) (page + (unsigned) i * PART), i);
        }
}

TEST(linked, calls_go_on_wherever_the_broker_dies) {
        static const char *const points[] = {
                "taken",    "claimed", "read-sent", "read-done",       "copied",        "bytes-in",         "bit-set",         "woken",
                "decided", "outcome", "punch",     "punched", "takeover-waited", "takeover-kept", "takeover-entered", "takeover-dropped",
        };
        struct kill_order *order = kill_order_new();
        struct test_broker broker;
        uint64_t page = 0;
        pb_client *client;
        char *memory;

        start(&broker, (uint64_t) kill_count() * (sizeof points / sizeof points[0]) * 4 * PART);
        client = test_connect(&broker, PB_ROLE_VMM);
        memory = get_region(client, 0).addr;
        for (int i = 0; i < (int) kill_count(); i++)
                for (unsigned p = 0; p < sizeof points / sizeof points[0]; p++) {
                        bool in_take_over = strncmp(points[p], "takeover", 8) == 0;

                        kill_order_give(order, points[p], 0);
                        if (in_take_over)
                                test_broker_kill_served(&broker);
                        page = use_parts(client, memory, page);
                        cr_assert(kill_order_is_done(order), "nobody died at %s", points[p]);
                        test_broker_wait_next(&broker);
                        check_parts(client, memory, page);
                }
        cr_assert_eq(memory, get_region(client, 0).addr);
        client = test_disconnect(client);
        stop(&broker);
        kill_order_free(order);
}

/* ---- a VMM that hands over its mappings while the broker dies ---- */

TEST(linked, vmm_attaches_wherever_the_broker_dies) {
        static const char *const points[] = { "attach-kept", "attach-entered", "attached",
                                              "map-entered", "map-registered", "mapped" };
        struct peer_task task = { .images = images, .shards = 2, .run = peer_read_pages, .n = 16 };
        struct kill_order *order;
        struct test_broker broker;

        require_uffd();
        order = kill_order_new();
        start(&broker, N_PAGES);
        task.broker = &broker;
        for (int i = 0; i < (int) kill_count(); i++)
                for (unsigned p = 0; p < sizeof points / sizeof points[0]; p++) {
                        kill_order_give(order, points[p], i % 2);
                        task.page += task.n; /* never complete: then nothing would be registered */
                        peer_run(&task);
                        cr_assert(kill_order_is_done(order), "nobody died at %s", points[p]);
                        test_broker_wait_next(&broker);
                }
        stop(&broker);
        kill_order_free(order);
}
