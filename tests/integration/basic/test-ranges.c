/* SPDX-License-Identifier: MIT */
/* Linked clients ask for ranges of every shape, from many threads of many processes; each page is compared. */
#include <errno.h>
#include <string.h>

#include "common/macro.h"
#include "tests/integration/basic/support.h"

#define MIB (1ull << 20)

static struct test_image image0, image1;
static const struct test_image *const images[] = { &image0, &image1 };

/* ---- random ranges, 4 threads in each of 4 processes ---- */

#define N_PROCESSES 4
#define N_THREADS 4
#define N_RANGES 250

/* One memory as two regions with a gap between them, as QEMU's q35 has it, and another memory right behind the first
 * of them. In MiB: ram0 0-24 at 0, ram1 at 24, ram0 24-48 at 4096. */
#define RAM0_LOW (24 * MIB)
#define RAM1 (16 * MIB)
#define HIGH_GPA (4096 * MIB)
#define RAM0_HIGH (24 * MIB)
#define LOW_END (RAM0_LOW + RAM1)

static const char *const q35_regions[] = {
        "--region=0,size=24M,memory=ram0",
        "--region=24M,size=16M,memory=ram1",
        "--region=4G,size=24M,memory=ram0,offset=24M",
};

struct walker {
        const struct test_broker *broker;
        pb_client *client;
        uint64_t seed;
};

/* A range of up to 512 KiB anywhere, across the border of the two low regions too, never across the gap. */
static struct pb_range random_range(uint64_t *seed) {
        uint64_t length = 1 + next_random(seed) % (next_random(seed) % 4 ? 16 * TEST_PAGE : 128 * TEST_PAGE);
        bool low = next_random(seed) % 8 < 5;
        uint64_t room = (low ? LOW_END : RAM0_HIGH) - length;

        return (struct pb_range) {
                .gpa = (low ? 0 : HIGH_GPA) + next_random(seed) % (room + 1),
                .len = length,
                .intent = next_random(seed) % 2 ? PB_READ : PB_WRITE,
        };
}

static void *walk(void *arg) {
        struct walker *walker = arg;
        uint64_t seed = walker->seed;

        for (unsigned i = 0; i < N_RANGES; i++) {
                struct pb_range ranges[3];
                unsigned n = next_random(&seed) % 4 == 0 ? 3 : 1;
                int r;

                for (unsigned j = 0; j < n; j++)
                        ranges[j] = random_range(&seed);
                r = n == 1 ? pb_ensure(walker->client, ranges[0].gpa, ranges[0].len, ranges[0].intent)
                           : pb_ensurev(walker->client, ranges, n);
                if (r < 0) {
                        fprintf(stderr, "ensure: %s\n", pb_explain(walker->client));
                        return walker;
                }
                for (unsigned j = 0; j < n; j++)
                        if (!content_is_right(walker->client, images, ranges[j].gpa, ranges[j].len))
                                return walker;
        }
        return NULL;
}

static int walk_in_child(void *arg) {
        const struct walker *self = arg;
        struct walker walkers[N_THREADS];
        pthread_t threads[N_THREADS];
        void *result;
        bool good = true;
        pb_client *client = child_connect(self->broker, PB_ROLE_DEVICE);

        CHILD_CHECK(client);
        for (unsigned i = 0; i < N_THREADS; i++) {
                walkers[i] = (struct walker) { .client = client, .seed = self->seed * N_THREADS + i + 1 };
                CHILD_CHECK(pthread_create(&threads[i], NULL, walk, &walkers[i]) == 0);
        }
        for (unsigned i = 0; i < N_THREADS; i++)
                good = pthread_join(threads[i], &result) == 0 && result == NULL && good;
        CHILD_CHECK(child_disconnect(client));
        return good ? 0 : 1;
}

static void random_ranges(const char *huge, uint32_t run_pages) {
        struct walker children[N_PROCESSES];
        struct test_broker broker;
        pid_t pids[N_PROCESSES];
        pb_client *client;

        test_image_make(&image0, &(struct test_image_spec) { .seed = 1, .n_pages = 48 * MIB / TEST_PAGE,
                                                             .data_ppm = 600000, .run_pages = run_pages });
        test_image_make(&image1, &(struct test_image_spec) { .seed = 2, .n_pages = RAM1 / TEST_PAGE,
                                                             .data_ppm = 400000, .run_pages = run_pages });
        test_image_make_cold(&image0); /* the one comes by cold reads, the other from page cache */
        TEST_BROKER_START(&broker, test_memory("ram0", &image0, huge), test_memory("ram1", &image1, huge),
                          q35_regions[0], q35_regions[1], q35_regions[2], "--fill=off");
        for (unsigned i = 0; i < N_PROCESSES; i++) {
                children[i] = (struct walker) { .broker = &broker, .seed = i + 1 };
                pids[i] = test_child_start((uid_t) -1, walk_in_child, &children[i]);
        }
        for (unsigned i = 0; i < N_PROCESSES; i++)
                cr_assert_eq(test_child_wait(pids[i]), 0);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_check_everything(client, images, MIB);
        cr_assert_eq(get_stats(client).pages_poisoned, 0);
        cr_assert(EVENTUALLY(get_stats(client).pages_in_flight == 0));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image0);
        test_image_unlink(&image1);
}

TEST(ranges, random_from_4_threads_in_each_of_4_processes) {
        random_ranges("", 5);
}

TEST(ranges, random_from_4_threads_in_each_of_4_processes_on_huge_pages) {
        require_hugepages(32, HUGE_2M);
        random_ranges(",huge=2M", 37);
}

/* ---- shapes ---- */

static pb_client *start_simple(struct test_broker *broker, uint64_t n_pages, uint32_t data_ppm) {
        test_image_make(&image0, &(struct test_image_spec) { .seed = 3, .n_pages = n_pages, .data_ppm = data_ppm,
                                                             .run_pages = 3 });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image0), "--fill=off");
        return test_connect(broker, PB_ROLE_DEVICE);
}

static void stop_simple(struct test_broker *broker, pb_client *client) {
        (void) test_disconnect(client);
        test_broker_stop(broker);
        test_image_unlink(&image0);
}

/* First and last page of a range around the ends of words (32 pages) and slices (64): exactly that comes. */
TEST(ranges, exactly_the_pages_asked_for_come) {
        static const unsigned edges[] = { 1, 2, 30, 31, 32, 33, 62, 63, 64, 65, 95, 96, 127, 128, 129 };
        struct test_broker broker;
        uint64_t base = 0, n_present = 0;
        pb_client *client = start_simple(&broker, ELEMENTS(edges) * (ELEMENTS(edges) + 1) / 2 * 192, 0);

        for (unsigned i = 0; i < ELEMENTS(edges); i++)
                for (unsigned j = i; j < ELEMENTS(edges); j++, base += 192) {
                        uint64_t first = base + edges[i], last = base + edges[j];
                        uint64_t gpa = first * TEST_PAGE + 4095, end = last * TEST_PAGE + 1;

                        if (i == j)
                                gpa = first * TEST_PAGE;
                        cr_assert(ensure_is_right(client, images, gpa, end - gpa));
                        cr_assert(!pb_is_present(client, (first - 1) * TEST_PAGE, TEST_PAGE));
                        cr_assert(!pb_is_present(client, (last + 1) * TEST_PAGE, TEST_PAGE));
                        n_present += last - first + 1;
                }
        cr_assert(EVENTUALLY(get_stats(client).pages_present == n_present));
        stop_simple(&broker, client);
}

TEST(ranges, may_span_adjacent_regions) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image0, &(struct test_image_spec) { .seed = 4, .n_pages = 100 });
        test_image_make(&image1, &(struct test_image_spec) { .seed = 5, .n_pages = 70 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image0), TEST_MEMORY("ram1", &image1), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 98 * TEST_PAGE + 5, 4 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 5));
        cr_assert(pb_is_present(client, 98 * TEST_PAGE, 5 * TEST_PAGE));
        cr_assert(!pb_is_present(client, 98 * TEST_PAGE, 6 * TEST_PAGE));
        cr_assert(ensure_is_right(client, images, 0, 170 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image0);
        test_image_unlink(&image1);
}

TEST(ranges, outside_every_region_are_refused_and_nothing_is_fetched) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image0, &(struct test_image_spec) { .seed = 6, .n_pages = 64 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image0), "--fill=off", "--region=0,size=128K,memory=ram0",
                          "--region=1M,size=128K,memory=ram0,offset=128K");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert_eq(pb_ensure(client, 31 * TEST_PAGE, 2 * TEST_PAGE, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensure(client, 512 << 10, 1, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensure(client, UINT64_MAX - 10, 100, PB_READ), -EFAULT);
        cr_assert_eq(pb_ensure(client, 0, 1, 0), -EINVAL);
        cr_assert_eq(pb_ensure(client, 0, 0, PB_READ), 0);
        cr_assert_eq(get_stats(client).pages_present, 0);
        cr_assert(ensure_is_right(client, images, MIB, 128 << 10));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image0);
}

TEST(ranges, regions_that_show_the_same_pages_share_them) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image0, &(struct test_image_spec) { .seed = 7, .n_pages = 64 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image0), "--fill=off", "--region=0,size=256K,memory=ram0",
                          "--region=4G,size=64K,memory=ram0,offset=128K");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 4ull << 30, 3 * TEST_PAGE));
        cr_assert(pb_is_present(client, 128 << 10, 3 * TEST_PAGE));
        cr_assert(content_is_right(client, images, 128 << 10, 3 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image0);
}

TEST(ranges, holes_are_zeros_and_cost_no_read) {
        struct test_broker broker;
        uint64_t n_data = 0;
        pb_client *client = start_simple(&broker, 1000, 500000);

        for (uint64_t page = 0; page < 1000; page++) {
                n_data += !test_image_is_hole(&image0, page);
                cr_assert(ensure_is_right(client, images, page * TEST_PAGE, 1));
        }
        cr_assert(n_data > 300 && n_data < 700);
        cr_assert(EVENTUALLY(get_stats(client).bytes_fetched == n_data * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 1000));
        cr_assert(EVENTUALLY(get_stats(client).pages_data_present == n_data));
        cr_assert(EVENTUALLY(get_stats(client).pages_data == n_data));
        stop_simple(&broker, client);
}

TEST(ranges, memory_without_a_source_is_zeros) {
        struct test_broker broker;
        struct pb_region region;
        pb_client *client;

        TEST_BROKER_START(&broker, "--memory=ram0,size=4M", "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        region = get_region(client, 0);
        test_ensure(client, 0, region.size, PB_READ);
        cr_assert(is_zero(region.addr, region.size));
        cr_assert_eq(get_stats(client).bytes_fetched, 0);
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

TEST(ranges, memory_may_begin_inside_its_source) {
        struct test_broker broker;
        struct pb_region region;
        pb_client *client;
        char option[256];

        test_image_make(&image0, &(struct test_image_spec) { .seed = 8, .n_pages = 300, .data_ppm = 700000 });
        (void) snprintf(option, sizeof option, "--memory=ram0,source=file:%s,source-offset=100K,size=800K", image0.path);
        TEST_BROKER_START(&broker, option, "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        region = get_region(client, 0);
        cr_assert_eq(region.size, 800 << 10);
        test_ensure(client, 0, region.size, PB_READ);
        test_image_assert(&image0, 25, 200, region.addr);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image0);
}

TEST(ranges, writes_stay_where_they_were_made) {
        struct test_broker broker;
        struct pb_region region;
        unsigned char want[TEST_PAGE];
        pb_client *writer = start_simple(&broker, 256, 0), *reader = test_connect(&broker, PB_ROLE_DEVICE);

        region = get_region(writer, 0);
        for (uint64_t page = 1; page < 256; page += 2) { /* half a page each */
                test_ensure(writer, page * TEST_PAGE + 1000, 2000, PB_WRITE);
                memset((char *) region.addr + page * TEST_PAGE + 1000, (int) page, 2000);
        }
        region = get_region(reader, 0);
        test_ensure(reader, 0, region.size, PB_READ);
        for (uint64_t page = 0; page < 256; page++) {
                test_image_fill(&image0, page, want);
                if (page % 2)
                        memset(want + 1000, (int) page, 2000);
                cr_assert(memcmp(want, (char *) region.addr + page * TEST_PAGE, TEST_PAGE) == 0, "page %d", (int) page);
        }
        reader = test_disconnect(reader);
        stop_simple(&broker, writer);
}
