/* SPDX-License-Identifier: MIT */
/* What the next broker finds and keeps, while nobody is connected. */
#include <signal.h>
#include <string.h>

#include "protocol/presence.h"
#include "tests/integration/basic/support.h"

#define N_PAGES 2048u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, const char *more, const char *option) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 301, .n_pages = N_PAGES, .data_ppm = 700000 });
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { test_memory("ram0", &image, more), option, NULL },
                                  });
}

static void kill_and_wait(struct test_broker *broker) {
        pid_t before = broker->served;

        test_broker_kill_served(broker);
        test_broker_wait_next(broker);
        cr_assert_neq(broker->served, before);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

static void write_marks(pb_client *client, uint64_t first, uint64_t n) {
        char *memory = get_region(client, 0).addr;

        test_ensure(client, first * TEST_PAGE, n * TEST_PAGE, PB_WRITE);
        for (uint64_t page = first; page < first + n; page++)
                memset(memory + page * TEST_PAGE, (int) (page | 1), TEST_PAGE);
}

static bool has_marks(pb_client *client, uint64_t first, uint64_t n) {
        const char *memory = get_region(client, 0).addr;

        for (uint64_t i = first * TEST_PAGE; i < (first + n) * TEST_PAGE; i++)
                if (memory[i] != (char) (i / TEST_PAGE | 1))
                        return false;
        return true;
}

/* Bytes that nobody has but the memory, and bits that say so. */
static void keeps_everything(const char *more) {
        struct test_broker broker;
        const uint64_t present = 40 + 512;
        uint64_t epoch;
        pb_client *client;

        start(&broker, more, "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        write_marks(client, 100, 40);
        test_ensure_and_check(client, &image, 1024 * TEST_PAGE, 512 * TEST_PAGE);
        epoch = find_map("ram0")->epoch;
        client = test_disconnect(client);

        kill_and_wait(&broker);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == present));
        cr_assert(pb_is_present(client, 100 * TEST_PAGE, 40 * TEST_PAGE));
        cr_assert(pb_is_present(client, 1024 * TEST_PAGE, 512 * TEST_PAGE));
        cr_assert(!pb_is_present(client, 600 * TEST_PAGE, TEST_PAGE));
        cr_assert_gt(find_map("ram0")->epoch, epoch);
        cr_assert(has_marks(client, 100, 40));
        /* What was not there comes from the source as before. */
        cr_assert(ensure_is_right(client, images, 140 * TEST_PAGE, (N_PAGES - 140) * TEST_PAGE));
        cr_assert(has_marks(client, 100, 40));
        client = test_disconnect(client);
        stop(&broker);
}

TEST(take_over, keeps_bytes_and_bits) {
        keeps_everything("");
}

TEST(take_over, keeps_bytes_and_bits_of_huge_pages) {
        require_hugepages(4, HUGE_2M);
        keeps_everything(",huge=2M");
}

TEST(take_over, keeps_bytes_and_bits_over_many_lives) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=off");
        for (uint64_t life = 0; life < 12; life++) {
                client = test_connect(&broker, PB_ROLE_VMM);
                for (uint64_t before = 0; before < life; before++)
                        cr_assert(has_marks(client, before * 128, 64), "life %d, marks of life %d", (int) life, (int) before);
                write_marks(client, life * 128, 64);
                /* The counter follows the bits. */
                cr_assert(EVENTUALLY(get_stats(client).pages_present == (life + 1) * 64));
                client = test_disconnect(client);
                kill_and_wait(&broker);
        }
        stop(&broker);
}

TEST(take_over, complete_memory_is_complete_at_once) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=on");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        client = test_disconnect(client);
        kill_and_wait(&broker);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(find_map("ram0")->complete));
        cr_assert(EVENTUALLY(get_stats(client).pages_present == N_PAGES));
        cr_assert(EVENTUALLY(get_stats(client).pages_data_present == test_image_count_data(&image)));
        cr_assert_eq(get_stats(client).bytes_fetched, 0);
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        stop(&broker);
}

/* The next broker does not open it, and cannot ask where it had data. */
TEST(take_over, source_that_is_done_with_is_counted_as_before) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=on");
        cr_assert(test_broker_will_log(&broker, "memory ram0: nothing is left to be read"));
        kill_and_wait(&broker);
        cr_assert(test_broker_will_log(&broker, "memory ram0 is complete: its source is not needed any more"));
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).pages_data == test_image_count_data(&image)));
        cr_assert(EVENTUALLY(get_stats(client).pages_data_present == test_image_count_data(&image)));
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        stop(&broker);
}

TEST(take_over, counts_data_that_was_present_and_is_fetched_after) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, N_PAGES / 2 * TEST_PAGE, PB_READ);
        client = test_disconnect(client);
        kill_and_wait(&broker);
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, N_PAGES * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(client).pages_data_present == test_image_count_data(&image)));
        client = test_disconnect(client);
        stop(&broker);
}

TEST(take_over, keeps_the_fill_as_a_client_switched_it) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(pb_set_fill(client, true), 0);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert_eq(pb_set_fill(client, false), 0);
        client = test_disconnect(client);
        kill_and_wait(&broker);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(!get_stats(client).fill);
        client = test_disconnect(client);
        stop(&broker);
}

TEST(take_over, stop_by_sigterm_is_survived_too) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        write_marks(client, 7, 3);
        client = test_disconnect(client);
        cr_assert(kill(broker.served, SIGTERM) == 0);
        test_broker_wait_next(&broker);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(has_marks(client, 7, 3));
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 3));
        client = test_disconnect(client);
        stop(&broker);
}

/* The socket is kept too: who connects while no broker runs waits in its backlog, and is nowhere refused. */
TEST(take_over, who_connects_meanwhile_waits) {
        struct test_broker broker;
        pb_client *client;

        start(&broker, "", "--fill=off");
        for (unsigned i = 0; i < 10; i++) {
                test_broker_kill_served(&broker);
                client = test_connect(&broker, PB_ROLE_DEVICE);
                cr_assert(ensure_is_right(client, images, i * 64 * TEST_PAGE, 64 * TEST_PAGE));
                client = test_disconnect(client);
                test_broker_wait_next(&broker);
        }
        stop(&broker);
}
