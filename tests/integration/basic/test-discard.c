/* SPDX-License-Identifier: MIT */
/* pb_discard(): zeros from then on, memory given back where it can be. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct fixture {
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
        char *memory;
        int fd;
};

static void fixture_start(struct fixture *f, const char *more, const char *option) {
        struct pb_region region;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 14, .n_pages = 1024 });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, more), "--fill=off", option);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
        region = get_region(f->client, 0);
        f->memory = region.addr;
        f->fd = region.fd;
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

static void discard_pages(struct fixture *f, uint64_t first, uint64_t n) {
        int r = pb_discard(f->client, first * TEST_PAGE, n * TEST_PAGE);

        cr_assert(r == 0, "pb_discard: %s: %s", strerror(-r), pb_explain(f->client));
}

static bool pages_are_zero(const struct fixture *f, uint64_t first, uint64_t n) {
        return is_zero(f->memory + first * TEST_PAGE, n * TEST_PAGE);
}

static uint64_t kib_in_use(const struct fixture *f) {
        struct stat st;

        cr_assert(fstat(f->fd, &st) == 0);
        return (uint64_t) st.st_blocks / 2;
}

TEST(discard, absent_page_is_zeros_and_is_never_fetched) {
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        discard_pages(&f, 20, 100);
        cr_assert(pb_is_present(f.client, 20 * TEST_PAGE, 100 * TEST_PAGE));
        cr_assert(pages_are_zero(&f, 20, 100));
        test_ensure(f.client, 0, 256 * TEST_PAGE, PB_READ);
        cr_assert(pages_are_zero(&f, 20, 100));
        cr_assert(content_is_right(f.client, images, 0, 20 * TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 120 * TEST_PAGE, 136 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 20 * TEST_PAGE, 100 * TEST_PAGE), 0);
        fixture_stop(&f);
}

TEST(discard, present_page_is_zeros_and_its_memory_is_given_back) {
        struct fixture f;
        uint64_t before;

        fixture_start(&f, "", "--io=auto");
        cr_assert(ensure_is_right(f.client, images, 0, 1024 * TEST_PAGE));
        before = kib_in_use(&f);
        discard_pages(&f, 100, 512);
        cr_assert_leq(kib_in_use(&f), before - 512 * 4);
        cr_assert(pages_are_zero(&f, 100, 512));
        cr_assert(content_is_right(f.client, images, 0, 100 * TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 612 * TEST_PAGE, 412 * TEST_PAGE));
        memset(f.memory + 100 * TEST_PAGE, 'a', TEST_PAGE); /* and can be used again */
        test_ensure(f.client, 100 * TEST_PAGE, TEST_PAGE, PB_WRITE);
        cr_assert_eq(f.memory[100 * TEST_PAGE], 'a');
        fixture_stop(&f);
}

TEST(discard, drops_a_fetch_under_way) {
        struct ensure_call call;
        struct fixture f;
        pb_client *reader;

        fixture_start(&f, "", "--verbose");
        reader = test_connect(&f.broker, PB_ROLE_DEVICE);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        ensure_start(&call, reader, 10 * TEST_PAGE, 4 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 10 * TEST_PAGE, 4 * TEST_PAGE, 1);
        discard_pages(&f, 11, 2);
        cr_assert(pages_are_zero(&f, 11, 2));
        memset(f.memory + 11 * TEST_PAGE, 'w', TEST_PAGE);
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0);
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(f.memory[11 * TEST_PAGE + i], 'w');
        cr_assert(pages_are_zero(&f, 12, 1));
        cr_assert(content_is_right(f.client, images, 10 * TEST_PAGE, TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 13 * TEST_PAGE, TEST_PAGE));
        reader = test_disconnect(reader);
        fixture_stop(&f);
}

TEST(discard, of_small_pages_inside_a_huge_page) {
        struct fixture f;

        require_hugepages(2, HUGE_2M);
        fixture_start(&f, ",huge=2M", "--io=auto");
        discard_pages(&f, 3, 2); /* in an absent huge page */
        cr_assert(pages_are_zero(&f, 3, 2));
        cr_assert(!pb_is_present(f.client, 2 * TEST_PAGE, TEST_PAGE));
        cr_assert(ensure_is_right(f.client, images, 0, 3 * TEST_PAGE));
        cr_assert(ensure_is_right(f.client, images, 5 * TEST_PAGE, 1019 * TEST_PAGE));
        cr_assert(pages_are_zero(&f, 3, 2));
        discard_pages(&f, 510, 4); /* present, over the border of two */
        cr_assert(pages_are_zero(&f, 510, 4));
        cr_assert(content_is_right(f.client, images, 5 * TEST_PAGE, 505 * TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 514 * TEST_PAGE, 510 * TEST_PAGE));
        fixture_stop(&f);
}

TEST(discard, heals_a_poisoned_page) {
        struct fixture f;

        fixture_start(&f, "", "--source-retries=0");
        test_gate_fail(&f.gate, 7 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 7 * TEST_PAGE, 1, PB_READ), -EIO);
        discard_pages(&f, 7, 1);
        test_ensure(f.client, 7 * TEST_PAGE, 1, PB_READ);
        cr_assert(pages_are_zero(&f, 7, 1));
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        fixture_stop(&f);
}

TEST(discard, is_the_vmms_alone_and_of_whole_pages) {
        struct fixture f;
        pb_client *device;

        fixture_start(&f, "", "--io=auto");
        device = test_connect(&f.broker, PB_ROLE_DEVICE);
        cr_assert_eq(pb_discard(device, 0, TEST_PAGE), -EACCES);
        cr_assert_eq(pb_discard(f.client, 1, TEST_PAGE), -EINVAL);
        cr_assert_eq(pb_discard(f.client, 0, TEST_PAGE - 1), -EINVAL);
        cr_assert_eq(pb_discard(f.client, 1024 * TEST_PAGE, TEST_PAGE), -EFAULT);
        cr_assert_eq(get_stats(f.client).pages_present, 0);
        device = test_disconnect(device);
        fixture_stop(&f);
}

/* Everything at once: what comes out is zeros where it was discarded and the source elsewhere. */
struct discarder {
        struct fixture *f;
        uint64_t seed;
};

static void *discard_some(void *arg) {
        struct discarder *self = arg;

        for (unsigned i = 0; i < 60; i++) { /* even runs of 8 pages are discarded, odd ones read */
                uint64_t run = next_random(&self->seed) % 128;

                if (run % 2 == 0) {
                        if (pb_discard(self->f->client, run * 8 * TEST_PAGE, 8 * TEST_PAGE) < 0)
                                return self;
                } else if (!ensure_is_right(self->f->client, images, run * 8 * TEST_PAGE, 8 * TEST_PAGE))
                        return self;
                if (pb_ensure(self->f->client, next_random(&self->seed) % 900 * TEST_PAGE, 100 * TEST_PAGE, PB_READ) < 0)
                        return self;
        }
        return NULL;
}

TEST(discard, races_with_reads_of_the_neighbours) {
        struct discarder discarders[4];
        struct fixture f;

        fixture_start(&f, "", "--io=auto");
        for (unsigned i = 0; i < 4; i++)
                discarders[i] = (struct discarder) { &f, i + 77 };
        run_threads(4, discard_some, discarders, sizeof discarders[0]);
        for (unsigned run = 0; run < 128; run += 2)
                discard_pages(&f, run * 8, 8);
        for (unsigned run = 0; run < 128; run++)
                if (run % 2 == 0)
                        cr_assert(pages_are_zero(&f, run * 8, 8));
                else
                        cr_assert(ensure_is_right(f.client, images, run * 8 * TEST_PAGE, 8 * TEST_PAGE));
        fixture_stop(&f);
}
