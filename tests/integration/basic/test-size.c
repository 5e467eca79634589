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
#define PAGE_TABLES_MAX_KIB (8 << 10)
#define READ_MAX (1u << 20)
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

static void start(struct test_broker *broker, uint64_t size, const char *option) {
        char memory[256];

        make_file(size);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,size=%lluG,source=file:%s",
                        (unsigned long long) (size / GIB), path);
        TEST_BROKER_START(broker, memory, option);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        (void) unlink(path);
}

/* By system calls, its own libraries among them. */
static uint64_t bytes_read_by(pid_t pid) {
        _cleanup_fclose_ FILE *f = NULL;
        unsigned long long n;
        char name[64];

        (void) snprintf(name, sizeof name, "/proc/%d/io", (int) pid);
        f = fopen(name, "re");
        if (!f)
                return 0; /* a kernel without CONFIG_TASK_IO_ACCOUNTING */
        cr_assert_eq(fscanf(f, "rchar: %llu", &n), 1);
        return n;
}

static void costs_nothing(uint64_t size) {
        struct test_broker broker;

        start(&broker, size, "--fill=off");
        fprintf(stderr, "%llu GiB: own memory %ld KiB, page tables %ld KiB, %llu bytes were read\n",
                (unsigned long long) (size / GIB), test_broker_rss_kib(&broker),
                (long) test_process_kib(broker.pid, "VmPTE"), (unsigned long long) bytes_read_by(broker.pid));
        /* Nothing that grows with the memory has been read or touched. */
        cr_assert_lt(bytes_read_by(broker.pid), READ_MAX);
        cr_assert(TEST_SANITIZED || test_process_kib(broker.pid, "VmPTE") < PAGE_TABLES_MAX_KIB);
        cr_assert(TEST_SANITIZED || test_broker_rss_kib(&broker) < OWN_MEMORY_MAX_KIB);
        stop(&broker);
}

TEST(size, one_gib_costs_nothing) {
        costs_nothing(GIB);
}

TEST(size, sixty_four_gib_cost_nothing) {
        costs_nothing(64 * GIB);
}

TEST(size, one_tib_costs_nothing) {
        costs_nothing(1024 * GIB);
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

        start(&broker, size, "--fill=off");
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
