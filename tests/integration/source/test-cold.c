/* SPDX-License-Identifier: MIT */
/* Cold reads by both engines, and what they leave in page cache: nothing that was not there before. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define N_PAGES 4096u
#define N_HOT 512u

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Pages of [first, first + n) of the file that page cache holds. */
static unsigned count_resident(uint64_t first, uint64_t n) {
        _cleanup_close_ int fd = open(image.path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ unsigned char *resident = malloc(N_PAGES);
        unsigned count = 0;
        void *addr;

        cr_assert(fd >= 0 && resident);
        addr = mmap(NULL, N_PAGES * TEST_PAGE, PROT_READ, MAP_SHARED, fd, 0);
        cr_assert(addr != MAP_FAILED);
        cr_assert(mincore(addr, N_PAGES * TEST_PAGE, resident) == 0);
        for (uint64_t i = first; i < first + n; i++)
                count += resident[i] & 1;
        (void) munmap(addr, N_PAGES * TEST_PAGE);
        return count;
}

static void make_hot(uint64_t first, uint64_t n) {
        _cleanup_close_ int fd = open(image.path, O_RDONLY | O_CLOEXEC);
        char buf[TEST_PAGE];

        cr_assert(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) == 0);
        for (uint64_t i = first; i < first + n; i++)
                cr_assert(pread(fd, buf, sizeof buf, (off_t) (i * TEST_PAGE)) == TEST_PAGE);
}

static void start_cold(struct test_broker *broker, const char *io, const char *fill, const char *dir) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 31, .n_pages = N_PAGES, .dir = dir });
        test_image_make_cold(&image);
        if (count_resident(0, N_PAGES) > N_PAGES / 50) {
                test_image_unlink(&image);
                cr_skip_test("files of this file system cannot be dropped from page cache");
        }
        make_hot(1000, N_HOT);
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), fill, io);
}

static void drops_what_it_brought(const char *io, const char *fill) {
        struct test_broker broker;
        pb_client *client;

        start_cold(&broker, io, fill, NULL);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        cr_assert_eq(count_resident(1000, N_HOT), N_HOT, "of somebody else's pages only %u are left in page cache",
                     count_resident(1000, N_HOT));
        /* A few may still be in a list of some CPU, where nothing can be dropped. */
        cr_assert(EVENTUALLY(count_resident(0, N_PAGES) <= N_HOT + N_PAGES / 50), "%u", count_resident(0, N_PAGES));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(cold, io_uring_reads_and_drops_what_it_brought) {
        require_io_uring();
        drops_what_it_brought("--io=uring", "--fill=off");
}

TEST(cold, threads_read_and_drop_what_they_brought) {
        drops_what_it_brought("--io=threads", "--fill=off");
}

TEST(cold, fill_drops_what_it_brought) {
        drops_what_it_brought("--io=auto", "--fill=on");
}

/* Page by page in random order: no read brings its neighbours along. */
TEST(cold, single_pages_come_alone) {
        struct test_broker broker;
        uint64_t seed = 99;
        pb_client *client;

        start_cold(&broker, "--io=auto", "--fill=off", NULL);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 300; i++)
                cr_assert(ensure_is_right(client, images, next_random(&seed) % N_PAGES * TEST_PAGE, 1));
        cr_assert(EVENTUALLY(count_resident(0, N_PAGES) <= N_HOT + 30), "%u", count_resident(0, N_PAGES));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* tmpfs has no RWF_NOWAIT: every read goes the cold way. */
TEST(cold, source_on_tmpfs_is_served) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 32, .n_pages = N_PAGES, .data_ppm = 500000,
                                                             .dir = "/dev/shm" });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
