/* SPDX-License-Identifier: MIT */
/* Part of a huge page is taken, or written, by a linked client; a userfaultfd peer sees the whole of it, and right. */
#include <string.h>

#include "tests/integration/peer/peer.h"

#define HUGE_PAGES 512u /* of 4 KiB in one */

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* What the linked client has made of the page: nothing, or its own bytes. */
enum made {
        SOURCE,
        WRITTEN,     /* 'w' in the second half */
        OVERWRITTEN, /* 'o' everywhere */
        ZEROED,      /* overwritten or discarded, and not written */
};

static enum made made[2 * HUGE_PAGES];

static void expect_page(uint64_t page, unsigned char want[TEST_PAGE]) {
        test_image_fill(&image, page, want);
        if (made[page] == WRITTEN)
                memset(want + TEST_PAGE / 2, 'w', TEST_PAGE / 2);
        else if (made[page] != SOURCE)
                memset(want, made[page] == OVERWRITTEN ? 'o' : 0, TEST_PAGE);
}

static int read_all(pb_client *client, const struct peer_task *task) {
        unsigned char want[TEST_PAGE];
        char *memory = peer_memory(client);

        for (uint64_t i = 0; i < 2 * HUGE_PAGES; i++) {
                uint64_t page = (i + task->page) % (2 * HUGE_PAGES);

                expect_page(page, want);
                if (memcmp(want, memory + page * TEST_PAGE, TEST_PAGE) != 0) {
                        fprintf(stderr, "page %d is wrong\n", (int) page);
                        return 1;
                }
        }
        return 0;
}

static void take(pb_client *client, uint64_t page, enum made how) {
        char *addr = (char *) get_region(client, 0).addr + page * TEST_PAGE;

        switch (how) {
        case SOURCE:
                cr_assert(ensure_is_right(client, images, page * TEST_PAGE, TEST_PAGE));
                break;
        case WRITTEN:
                test_ensure(client, page * TEST_PAGE + TEST_PAGE / 2, TEST_PAGE / 2, PB_WRITE);
                memset(addr + TEST_PAGE / 2, 'w', TEST_PAGE / 2);
                break;
        case OVERWRITTEN:
                test_ensure(client, page * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
                memset(addr, 'o', TEST_PAGE);
                break;
        case ZEROED:
                cr_assert(pb_discard(client, page * TEST_PAGE, TEST_PAGE) == 0);
        }
        made[page] = how;
}

/* `first_touch`: the page that the peer begins with. */
static void partly_taken(uint64_t first_touch, const char *io, bool cold) {
        struct peer_task task = { .images = images, .run = read_all, .page = first_touch };
        struct test_broker broker;
        pb_client *client;

        require_uffd();
        require_hugepages(2, HUGE_2M);
        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = 2 * HUGE_PAGES, .data_ppm = 800000 });
        if (cold)
                test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ",huge=2M"), "--fill=off", io);
        task.broker = &broker;
        client = test_connect(&broker, PB_ROLE_VMM);
        take(client, 100, SOURCE);
        take(client, 200, WRITTEN);
        take(client, 300, OVERWRITTEN);
        take(client, 400, ZEROED);
        take(client, 511, WRITTEN);
        take(client, 512, WRITTEN); /* another huge page, with nothing else of it */
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 6));
        peer_run(&task);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 2 * HUGE_PAGES));
        /* What the client sees is what the peer saw. */
        for (uint64_t page = 0; page < 2 * HUGE_PAGES; page++) {
                unsigned char want[TEST_PAGE];

                expect_page(page, want);
                cr_assert(memcmp(want, (char *) get_region(client, 0).addr + page * TEST_PAGE, TEST_PAGE) == 0);
        }
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(huge, page_taken_in_part_is_whole_for_a_peer_that_touches_a_present_part) {
        partly_taken(100, "--io=auto", false);
}

TEST(huge, page_taken_in_part_is_whole_for_a_peer_that_touches_a_written_part) {
        partly_taken(200, "--io=auto", true);
}

TEST(huge, page_taken_in_part_is_whole_for_a_peer_that_touches_an_absent_part) {
        partly_taken(0, "--io=threads", true);
}

/* All at once: the client writes pages of its own choice while the peer reads. */
struct writer {
        pb_client *client;
        uint64_t seed;
};

static void *write_some(void *arg) {
        struct writer *self = arg;
        struct pb_region region;

        if (pb_get_region(self->client, 0, &region) < 0)
                return self;
        for (uint64_t page = self->seed; page < 2 * HUGE_PAGES; page += 8) { /* 'w' in the second half */
                if (pb_ensure(self->client, page * TEST_PAGE + TEST_PAGE / 2, TEST_PAGE / 2, PB_WRITE) < 0)
                        return self;
                memset((char *) region.addr + page * TEST_PAGE + TEST_PAGE / 2, 'w', TEST_PAGE / 2);
        }
        return NULL;
}

static int read_first_halves(pb_client *client, const struct peer_task *task) {
        unsigned char want[TEST_PAGE];
        char *memory = peer_memory(client);

        for (uint64_t page = 0; page < 2 * HUGE_PAGES; page++) {
                test_image_fill(&image, page, want);
                CHILD_CHECK(memcmp(want, memory + page * TEST_PAGE, TEST_PAGE / 2) == 0);
        }
        return 0;
}

TEST(huge, written_pages_keep_what_was_written_while_a_peer_reads) {
        struct peer_task task = { .images = images, .run = read_first_halves };
        struct writer writers[4];
        struct test_broker broker;
        pb_client *client;
        pid_t pid;

        require_uffd();
        require_hugepages(2, HUGE_2M);
        test_image_make(&image, &(struct test_image_spec) { .seed = 92, .n_pages = 2 * HUGE_PAGES, .data_ppm = 800000 });
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ",huge=2M"), "--fill=off");
        task.broker = &broker;
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 4; i++)
                writers[i] = (struct writer) { client, 2 * i };
        pid = peer_start(&task);
        run_threads(4, write_some, writers, sizeof writers[0]);
        cr_assert_eq(test_child_wait(pid), 0);
        for (uint64_t page = 0; page < 2 * HUGE_PAGES; page++)
                made[page] = page % 2 == 0 ? WRITTEN : SOURCE;
        task.run = read_all;
        peer_run(&task);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
