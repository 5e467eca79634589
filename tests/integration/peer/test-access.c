/* SPDX-License-Identifier: MIT */
/* Every way in which a process touches memory that is under userfaultfd. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/peer/peer.h"

static struct test_image image0, image1;
static const struct test_image *const images[] = { &image0, &image1 };

static void make_images(void) {
        test_image_make(&image0, &(struct test_image_spec) { .seed = 71, .n_pages = 4096, .data_ppm = 600000 });
        test_image_make(&image1, &(struct test_image_spec) { .seed = 72, .n_pages = 1024, .data_ppm = 300000,
                                                             .run_pages = 3 });
        test_image_make_cold(&image0);
}

static void done(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image0);
        test_image_unlink(&image1);
}

/* ---- plain loads ---- */

static void read_everything(const char *huge, unsigned shards, const char *option, const char *option2) {
        struct peer_task task = { .images = images, .shards = shards, .run = peer_read_everything };
        struct test_broker broker;
        pb_client *client;

        make_images();
        TEST_BROKER_START(&broker, test_memory("ram0", &image0, huge), test_memory("ram1", &image1, huge), "--fill=off",
                          "--region=0,size=8M,memory=ram0", "--region=8M,size=4M,memory=ram1",
                          "--region=4G,size=8M,memory=ram0,offset=8M", option, option2);
        task.broker = &broker;
        client = test_connect(&broker, PB_ROLE_VMM);
        peer_run(&task);
        cr_assert(get_stats(client).faults_peer > 0);
        cr_assert_eq(get_stats(client).faults_linked, 0);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 5120));
        cr_assert(EVENTUALLY(get_stats(client).peers == 0));
        cr_assert(ensure_is_right(client, images, 0, 12 << 20));
        client = test_disconnect(client);
        done(&broker);
}

TEST(access, plain_loads_read_everything) {
        require_uffd();
        read_everything("", 0, "--io=auto", "--seccomp=on");
}

TEST(access, plain_loads_read_everything_without_fault_around) {
        require_uffd();
        read_everything("", 0, "--io=threads", "--fault-around=4K");
}

TEST(access, plain_loads_read_everything_over_several_userfaultfds) {
        require_uffd();
        read_everything("", 5, "--io=auto", "--seccomp=on");
}

TEST(access, plain_loads_read_everything_on_huge_pages) {
        require_uffd();
        require_hugepages(10, HUGE_2M);
        read_everything(",huge=2M", 2, "--io=auto", "--seccomp=on");
}

TEST(access, plain_loads_read_everything_from_a_broker_that_is_nobody) {
        require_uffd();
        require_root();
        read_everything("", 0, "--user=nobody", "--seccomp=on");
}

/* ---- stores ---- */

static int store_everywhere(pb_client *client, const struct peer_task *task) {
        unsigned char want[TEST_PAGE];
        char *memory = peer_memory(client);

        for (uint64_t page = 0; page < 1024; page++)
                memory[page * TEST_PAGE + page % 4096] = 'S'; /* the first touch is a store */
        for (uint64_t page = 0; page < 1024; page++) {
                test_image_fill(&image0, page, want);
                want[page % 4096] = 'S';
                CHILD_CHECK(memcmp(want, memory + page * TEST_PAGE, TEST_PAGE) == 0);
        }
        return 0;
}

/* ---- system calls ---- */

static int call_with_guest_buffers(pb_client *client, const struct peer_task *task) {
        unsigned char want[3 * TEST_PAGE], have[3 * TEST_PAGE];
        char *memory = peer_memory(client);
        int fds[2];

        CHILD_CHECK(pipe2(fds, O_CLOEXEC) == 0);
        for (uint64_t page = 0; page + 3 < 900; page += 9) {
                /* write(2) reads absent guest memory, from the middle of a page. */
                CHILD_CHECK(write(fds[1], memory + page * TEST_PAGE + 100, 2 * TEST_PAGE) == 2 * TEST_PAGE);
                CHILD_CHECK(read(fds[0], have, 2 * TEST_PAGE) == 2 * TEST_PAGE);
                for (unsigned i = 0; i < 3; i++)
                        test_image_fill(&image0, page + i, want + i * TEST_PAGE);
                CHILD_CHECK(memcmp(want + 100, have, 2 * TEST_PAGE) == 0);
                /* read(2) writes into absent guest memory: part of a page, over the border of two. */
                memset(have, 'r', 1000);
                CHILD_CHECK(write(fds[1], have, 1000) == 1000);
                CHILD_CHECK(read(fds[0], memory + (page + 5) * TEST_PAGE - 500, 1000) == 1000);
                for (unsigned i = 0; i < 2; i++)
                        test_image_fill(&image0, page + 4 + i, want + i * TEST_PAGE);
                memset(want + TEST_PAGE - 500, 'r', 1000);
                CHILD_CHECK(memcmp(want, memory + (page + 4) * TEST_PAGE, 2 * TEST_PAGE) == 0);
        }
        return 0;
}

static void run_simple(int (*run)(pb_client *client, const struct peer_task *task), const char *huge) {
        struct peer_task task = { .images = images, .run = run };
        struct test_broker broker;

        make_images();
        TEST_BROKER_START(&broker, test_memory("ram0", &image0, huge), "--fill=off", "--fault-around=4K");
        task.broker = &broker;
        peer_run(&task);
        done(&broker);
}

TEST(access, stores_keep_the_rest_of_the_page) {
        require_uffd();
        run_simple(store_everywhere, "");
}

TEST(access, stores_keep_the_rest_of_the_huge_page) {
        require_uffd();
        require_hugepages(8, HUGE_2M);
        run_simple(store_everywhere, ",huge=2M");
}

TEST(access, system_calls_read_and_write_absent_guest_memory) {
        require_uffd();
        run_simple(call_with_guest_buffers, "");
}

TEST(access, system_calls_read_and_write_absent_guest_memory_on_huge_pages) {
        require_uffd();
        require_hugepages(8, HUGE_2M);
        run_simple(call_with_guest_buffers, ",huge=2M");
}

/* ---- threads ---- */

struct toucher {
        pb_client *client;
        const struct peer_task *task;
        uint64_t seed;
};

static void *touch_random(void *arg) {
        struct toucher *self = arg;

        for (unsigned i = 0; i < 1000; i++) {
                uint64_t page = next_random(&self->seed) % 4090;

                if (!content_is_right(self->client, images, page * TEST_PAGE, 1 + next_random(&self->seed) % 16384))
                        return self;
        }
        return NULL;
}

static int touch_from_threads(pb_client *client, const struct peer_task *task) {
        struct toucher touchers[4];
        pthread_t threads[4];
        bool good = true;

        for (unsigned i = 0; i < 4; i++) {
                touchers[i] = (struct toucher) { client, task, i / 2 + 1 }; /* two and two in step: the same pages */
                CHILD_CHECK(pthread_create(&threads[i], NULL, touch_random, &touchers[i]) == 0);
        }
        for (unsigned i = 0; i < 4; i++) {
                void *result;

                good = pthread_join(threads[i], &result) == 0 && !result && good;
        }
        return good ? 0 : 1;
}

TEST(access, threads_that_race_for_the_same_pages_all_go_on) {
        require_uffd();
        run_simple(touch_from_threads, "");
}

/* Stays until it is told: the neighbours of a process that has ended are nobody's. */
static int read_and_stay(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(peer_read_pages(client, task) == 0);
        CHILD_CHECK(step_await(task->steps));
        return 0;
}

TEST(access, fault_around_brings_the_neighbours_and_only_them) {
        struct peer_task task = { .images = images, .run = read_and_stay, .page = 100, .n = 1 };
        struct test_broker broker;
        struct steps steps;
        pb_client *client;
        pid_t pid;

        require_uffd();
        steps = steps_new();
        make_images();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image0), "--fill=off", "--fault-around=32K");
        task.broker = &broker;
        task.steps = steps.child;
        client = test_connect(&broker, PB_ROLE_VMM);
        pid = peer_start(&task);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == 8));
        cr_assert(pb_is_present(client, 96 * TEST_PAGE, 8 * TEST_PAGE));
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        cr_assert(content_is_right(client, images, 96 * TEST_PAGE, 8 * TEST_PAGE));
        client = test_disconnect(client);
        done(&broker);
}
