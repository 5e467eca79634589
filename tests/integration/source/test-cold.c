/* SPDX-License-Identifier: MIT */
/* Cold reads by both engines, and what they leave in page cache: nothing that was not there before. */
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define N_PAGES 4096u
#define N_HOT 512u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_hot(const struct test_image *which, uint64_t first, uint64_t n) {
        _cleanup_close_ int fd = open(which->path, O_RDONLY | O_CLOEXEC);
        char buf[TEST_PAGE];

        cr_assert(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) == 0);
        for (uint64_t i = first; i < first + n; i++)
                cr_assert(pread(fd, buf, sizeof buf, (off_t) (i * TEST_PAGE)) == TEST_PAGE);
}

/* Read into page cache just before the other, and left alone: of what the kernel takes away by itself it loses first. */
static struct test_image control;

static void start_cold(struct test_broker *broker, const char *io, const char *fill) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 31, .n_pages = N_PAGES });
        test_image_require_cold(&image);
        test_image_make(&control, &(struct test_image_spec) { .seed = 33, .n_pages = N_HOT });
        test_image_make_cold(&control);
        make_hot(&control, 0, N_HOT);
        make_hot(&image, 1000, N_HOT);
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), fill, io);
}

static void stop(struct test_broker *broker, pb_client *client) {
        (void) test_disconnect(client);
        test_broker_stop(broker);
        test_image_unlink(&image);
        test_image_unlink(&control);
}

static void drops_what_it_brought(const char *io, const char *fill) {
        uint64_t hot, of_control;
        struct test_broker broker;
        pb_client *client;

        start_cold(&broker, io, fill);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        hot = test_image_count_cached(&image, 1000, N_HOT);
        of_control = test_image_count_cached(&control, 0, N_HOT);
        /* A few may still be in a list of some CPU, where nothing can be dropped. */
        cr_assert(EVENTUALLY(test_image_count_cached(&image, 0, N_PAGES) <= N_HOT + N_PAGES / 50), "%u",
                  (unsigned) test_image_count_cached(&image, 0, N_PAGES));
        stop(&broker, client);
        if (of_control < N_HOT)
                cr_skip_test("the kernel is short of memory and empties page cache by itself");
        cr_assert_eq(hot, N_HOT, "of somebody else's pages only %u are left in page cache", (unsigned) hot);
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

/* Page by page in random order: no read brings its neighbours along. Of a few pages the kernel may not let go. */
TEST(cold, single_pages_come_alone) {
        const unsigned n = 300;
        struct test_broker broker;
        uint64_t seed = 99;
        pb_client *client;

        start_cold(&broker, "--io=auto", "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < n; i++)
                cr_assert(ensure_is_right(client, images, next_random(&seed) % N_PAGES * TEST_PAGE, 1));
        cr_assert(EVENTUALLY(test_image_count_cached(&image, 0, N_PAGES) <= N_HOT + n / 10), "%u",
                  (unsigned) test_image_count_cached(&image, 0, N_PAGES));
        stop(&broker, client);
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
