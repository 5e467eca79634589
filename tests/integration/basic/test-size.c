/* SPDX-License-Identifier: MIT */
/* Large memories cost nothing until they are touched. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define GIB (1ull << 30)
#define OWN_MEMORY_MAX_KIB (32 << 10)
#define N_FAULTS 100000u
#define N_PATCHES 1024u
#define PATCH_PAGES 16u

static char path[128];

/* Content of page p of the sparse file, where it has data: patches of 16 pages, evenly spread. */
static uint64_t patch_step(uint64_t size) {
        return size / TEST_PAGE / N_PATCHES;
}

static bool is_data(uint64_t size, uint64_t page) {
        return page % patch_step(size) < PATCH_PAGES;
}

static void fill_page(uint64_t page, uint64_t words[TEST_PAGE / 8]) {
        for (unsigned i = 0; i < TEST_PAGE / 8; i++)
                words[i] = (page + 1) * 0x9e3779b97f4a7c15 + i;
}

static void make_file(uint64_t size) {
        _cleanup_close_ int fd = -1;
        uint64_t words[TEST_PAGE / 8];

        (void) snprintf(path, sizeof path, "%s/large-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        fd = mkostemp(path, O_CLOEXEC);
        cr_assert(fd >= 0);
        if (ftruncate(fd, (off_t) size) < 0) {
                (void) unlink(path);
                cr_skip_test("the file system takes no file of %llu GiB", (unsigned long long) (size / GIB));
        }
        for (uint64_t patch = 0; patch < N_PATCHES; patch++)
                for (uint64_t page = patch * patch_step(size); page < patch * patch_step(size) + PATCH_PAGES; page++) {
                        fill_page(page, words);
                        cr_assert(pwrite(fd, words, TEST_PAGE, (off_t) (page * TEST_PAGE)) == TEST_PAGE);
                }
}

static uint64_t start(struct test_broker *broker, uint64_t size, const char *option) {
        uint64_t begin_us;
        char memory[256];

        make_file(size);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,size=%lluG,source=file:%s",
                        (unsigned long long) (size / GIB), path);
        begin_us = clock_now_us();
        TEST_BROKER_START(broker, memory, option);
        return clock_now_us() - begin_us;
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        (void) unlink(path);
}

static void ready_soon(uint64_t size) {
        struct test_broker broker;
        uint64_t took_us = start(&broker, size, "--fill=off");

        fprintf(stderr, "%llu GiB: ready after %llu ms, own memory %ld KiB, page tables %ld KiB\n",
                (unsigned long long) (size / GIB), (unsigned long long) (took_us / 1000), test_broker_rss_kib(&broker),
                (long) test_process_kib(broker.pid, "VmPTE"));
        cr_assert(took_us < 5 * USEC_PER_SEC);
        cr_assert(TEST_SANITIZED || test_broker_rss_kib(&broker) < OWN_MEMORY_MAX_KIB);
        stop(&broker);
}

TEST(size, one_gib_is_ready_at_once) {
        ready_soon(GIB);
}

TEST(size, sixty_four_gib_are_ready_at_once) {
        ready_soon(64 * GIB);
}

TEST(size, one_tib_is_ready_at_once) {
        ready_soon(1024 * GIB);
}

/* Every other one in the data, the others anywhere: mostly holes. */
static uint64_t random_page(uint64_t size, uint64_t *seed) {
        uint64_t n = next_random(seed);

        if (n % 2)
                return next_random(seed) % N_PATCHES * patch_step(size) + next_random(seed) % PATCH_PAGES;
        return next_random(seed) % (size / TEST_PAGE);
}

static bool page_is_right(uint64_t size, uint64_t page, const void *addr) {
        uint64_t words[TEST_PAGE / 8];

        if (!is_data(size, page))
                return is_zero(addr, TEST_PAGE);
        fill_page(page, words);
        return memcmp(words, addr, TEST_PAGE) == 0;
}

TEST(size, own_memory_stays_small_over_100000_random_faults_in_a_tib) {
        const uint64_t size = 1024 * GIB;
        struct pb_region region;
        struct test_broker broker;
        uint64_t seed = 4711;
        pb_client *client;

        (void) start(&broker, size, "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        region = get_region(client, 0);
        for (unsigned i = 0; i < N_FAULTS; i++) {
                uint64_t page = random_page(size, &seed);

                test_ensure(client, page * TEST_PAGE, TEST_PAGE, PB_READ);
                /* Reading a hole gives it memory, in this process: not each time. */
                if (is_data(size, page) || i % 64 == 0)
                        cr_assert(page_is_right(size, page, (char *) region.addr + page * TEST_PAGE), "page %llu",
                                  (unsigned long long) page);
        }
        fprintf(stderr, "after %u random faults in 1 TiB (%llu pages, %llu fetched): own memory %ld KiB, page tables %ld KiB\n",
                N_FAULTS, (unsigned long long) get_stats(client).pages_present,
                (unsigned long long) get_stats(client).bytes_fetched / TEST_PAGE, test_broker_rss_kib(&broker),
                (long) test_process_kib(broker.pid, "VmPTE"));
        cr_assert(TEST_SANITIZED || test_broker_rss_kib(&broker) < OWN_MEMORY_MAX_KIB);
        client = test_disconnect(client);
        stop(&broker);
}
