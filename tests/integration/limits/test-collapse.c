/* SPDX-License-Identifier: MIT */
/* Memory of 4 KiB pages is moved onto huge ones when it is complete, and not before. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define BLOCKS 8u
#define BLOCK_PAGES 512u
#define PAGES (BLOCKS * BLOCK_PAGES)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* KiB of guest memory that huge entries of this process's page table map. */
static uint64_t read_huge_kib(pid_t pid) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[64], line[512];
        uint64_t sum = 0, kib, start, end;
        bool meant = false;

        (void) snprintf(path, sizeof path, "/proc/%d/smaps", (int) pid);
        f = fopen(path, "re");
        cr_assert(f);
        while (fgets(line, sizeof line, f)) {
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
                        meant = strstr(line, "/memfd:pagebroker:test:ram0 ") != NULL;
                else if (meant && (sscanf(line, "ShmemPmdMapped: %" SCNu64, &kib) == 1 ||
                                   sscanf(line, "FilePmdMapped: %" SCNu64, &kib) == 1))
                        sum += kib;
        }
        return sum;
}

/* Where the kernel gives shared memory huge pages by itself, nothing is to be seen of who does it. */
static bool kernel_does_it_by_itself(void) {
        _cleanup_fclose_ FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
        char line[128] = "";

        return f && fgets(line, sizeof line, f) &&
               (strstr(line, "[always]") || strstr(line, "[within_size]") || strstr(line, "[force]"));
}

/* Tries what the broker will do, with as much memory. */
static void require_collapse(void) {
        size_t size = (BLOCKS + 1) * HUGE_2M;
        _cleanup_close_ int fd = memfd_create("try", MFD_CLOEXEC);
        char *start, *aligned;
        int r = 0;

        if (kernel_does_it_by_itself())
                cr_skip_test("/sys/kernel/mm/transparent_hugepage/shmem_enabled: the kernel does it by itself");

        cr_assert(fd >= 0 && ftruncate(fd, (off_t) size) == 0);
        start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(start != MAP_FAILED && munmap(start, size) == 0);
        aligned = (char *) (((uintptr_t) start + HUGE_2M - 1) & ~(HUGE_2M - 1));
        aligned = mmap(aligned, BLOCKS * HUGE_2M, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(aligned != MAP_FAILED);
        memset(aligned, 1, BLOCKS * HUGE_2M);
        for (unsigned i = 0; i < BLOCKS && r == 0; i++)
                r = madvise(aligned + i * HUGE_2M, HUGE_2M, MADV_COLLAPSE) < 0 ? errno : 0;
        (void) munmap(aligned, BLOCKS * HUGE_2M);
        if (r != 0)
                cr_skip_test("MADV_COLLAPSE does not work here: %s", strerror(r));
}

static void touch_all(pb_client *client) {
        const volatile char *memory = get_region(client, 0).addr;

        for (uint64_t page = 0; page < PAGES; page++)
                (void) memory[page * TEST_PAGE];
}

static void start(struct test_broker *broker, const char *option) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 77, .n_pages = PAGES });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", option);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

TEST(collapse, moves_complete_memory_onto_huge_pages_with_its_content) {
        struct test_broker broker;
        pb_client *client;

        require_collapse();
        start(&broker, "--collapse=on");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, (PAGES - 1) * TEST_PAGE));
        cr_assert_eq(read_huge_kib(broker.pid) + read_huge_kib(getpid()), 0);
        memset(get_region(client, 0).addr, 'g', TEST_PAGE); /* the guest goes on writing */
        cr_assert(ensure_is_right(client, images, (PAGES - 1) * TEST_PAGE, TEST_PAGE));
        cr_assert(test_broker_will_log(&broker, "of 16 MiB are on huge pages now, 0 MiB are sparse"));
        touch_all(client);
        /* The kernel leaves out a block of which it finds a page busy. */
        cr_assert(read_huge_kib(getpid()) >= PAGES * TEST_PAGE / 1024 / 2, "%" PRIu64 " KiB", read_huge_kib(getpid()));
        cr_assert(content_is_right(client, images, TEST_PAGE, (PAGES - 1) * TEST_PAGE));
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(((char *) get_region(client, 0).addr)[i], 'g');
        client = test_disconnect(client);
        stop(&broker);
}

TEST(collapse, leaves_memory_alone_when_nobody_asked_for_it) {
        struct test_broker broker;
        pb_client *client;

        require_collapse();
        start(&broker, "--collapse=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        cr_assert(test_broker_will_log(&broker, "taken down"));
        touch_all(client);
        cr_assert_eq(read_huge_kib(getpid()), 0);
        client = test_disconnect(client);
        stop(&broker);
}

/* Zeros are holes, and stay holes: a huge page would give them memory. */
TEST(collapse, gives_no_memory_to_holes) {
        struct test_broker broker;
        struct pb_region region;
        pb_client *client;

        require_collapse();
        TEST_BROKER_START(&broker, "--memory=ram0,size=16M", "--fill=off", "--collapse=on");
        client = test_connect(&broker, PB_ROLE_VMM);
        region = get_region(client, 0);
        /* One block of eight gets memory, but for its last eighth and a page. */
        for (uint64_t page = 0; page < BLOCK_PAGES / 8 * 7 - 1; page++) {
                cr_assert_eq(pb_ensure(client, region.gpa + page * TEST_PAGE, TEST_PAGE, PB_WRITE), 0);
                memset((char *) region.addr + page * TEST_PAGE, 'g', TEST_PAGE);
        }
        cr_assert_eq(pb_ensure(client, region.gpa, PAGES * TEST_PAGE, PB_READ), 0);
        cr_assert(test_broker_will_log(&broker, "memory ram0: 0 of 16 MiB are on huge pages now, 16 MiB are sparse"));
        cr_assert_eq(((char *) region.addr)[TEST_PAGE], 'g');
        cr_assert(is_zero((char *) region.addr + BLOCK_PAGES * TEST_PAGE, (PAGES - BLOCK_PAGES) * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

static int write_on(void *arg) {
        const struct test_broker *broker = arg;
        pb_client *client = child_connect(broker, PB_ROLE_DEVICE);
        volatile uint64_t *memory;
        struct pb_region region;

        CHILD_CHECK(client && pb_get_region(client, 0, &region) == 0);
        memory = region.addr;
        /* Word 1 of each page counts, whether the page is being moved or not. */
        for (uint64_t round = 0; round < 400; round++)
                for (uint64_t page = 0; page < PAGES; page++) {
                        volatile uint64_t *word = &memory[page * TEST_PAGE / 8 + 1];

                        if (round == 0) {
                                CHILD_CHECK(pb_ensure(client, page * TEST_PAGE, TEST_PAGE, PB_WRITE) == 0);
                                *word = 0;
                        }
                        CHILD_CHECK(*word == round);
                        *word = round + 1;
                }
        return child_disconnect(client) ? 0 : 1;
}

TEST(collapse, loses_nothing_that_is_written_meanwhile) {
        struct test_broker broker;

        require_collapse();
        start(&broker, "--collapse=on");
        cr_assert_eq(test_run_as((uid_t) -1, write_on, &broker), 0);
        cr_assert(test_broker_will_log(&broker, "of 16 MiB are on huge pages now"));
        stop(&broker);
}
