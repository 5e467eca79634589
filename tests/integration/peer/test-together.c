/* SPDX-License-Identifier: MIT */
/* A page that several want at once, by userfaultfd and by ring; held by the source until all wait. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "tests/integration/peer/peer.h"
#include "tests/lib/gate.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct fixture {
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
        struct steps steps;
        struct peer_task task;
};

static void fixture_start(struct fixture *f, const char *huge, const char *option) {
        require_uffd();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 81, .n_pages = 1024 });
        test_gate_start(&f->gate, &image);
        f->steps = steps_new();
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, huge), "--fill=off", "--fault-around=4K", option);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
        f->task = (struct peer_task) { .broker = &f->broker, .images = images, .steps = f->steps.child, .page = 40, .n = 1 };
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        steps_done(&f->steps);
        test_image_unlink(&image);
}

static void hold_page(struct fixture *f) {
        test_gate_hold(&f->gate, 40 * TEST_PAGE, TEST_PAGE);
}

static void wait_faults(struct fixture *f, uint64_t peer, uint64_t linked) {
        cr_assert(EVENTUALLY(get_stats(f->client).faults_peer >= peer && get_stats(f->client).faults_linked >= linked));
}

/* ---- two threads of a peer ---- */

struct pair {
        pb_client *client;
        bool good;
};

static void *load_page(void *arg) {
        struct pair *pair = arg;

        pair->good = content_is_right(pair->client, images, 40 * TEST_PAGE, 1);
        return NULL;
}

static int two_threads(pb_client *client, const struct peer_task *task) {
        struct pair pair[2] = { { client, false }, { client, false } };
        pthread_t thread;

        CHILD_CHECK(pthread_create(&thread, NULL, load_page, &pair[0]) == 0);
        (void) load_page(&pair[1]);
        CHILD_CHECK(pthread_join(thread, NULL) == 0);
        return pair[0].good && pair[1].good ? 0 : 1;
}

static void threads_on_one_page(const char *huge) {
        struct fixture f;
        pid_t pid;

        fixture_start(&f, huge, "--io=auto");
        hold_page(&f);
        f.task.run = two_threads;
        pid = peer_start(&f.task);
        wait_faults(&f, 2, 0);
        test_gate_open(&f.gate);
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert_eq(test_gate_count(&f.gate, 40 * TEST_PAGE, TEST_PAGE), 1);
        fixture_stop(&f);
}

TEST(together, two_threads_of_a_peer_on_one_page) {
        threads_on_one_page("");
}

TEST(together, two_threads_of_a_peer_on_one_huge_page) {
        require_hugepages(2, HUGE_2M);
        threads_on_one_page(",huge=2M");
}

/* ---- ring and userfaultfd ---- */

static void ring_and_peer(const char *huge, bool ring_first) {
        struct ensure_call call;
        struct fixture f;
        pid_t pid;

        fixture_start(&f, huge, "--io=auto");
        hold_page(&f);
        f.task.run = peer_read_pages;
        if (ring_first) {
                ensure_start(&call, f.client, 40 * TEST_PAGE, TEST_PAGE, PB_WRITE);
                wait_faults(&f, 0, 1);
        }
        pid = peer_start(&f.task);
        wait_faults(&f, 1, 0);
        if (!ring_first) {
                ensure_start(&call, f.client, 40 * TEST_PAGE, TEST_PAGE, PB_WRITE);
                wait_faults(&f, 1, 1);
        }
        test_gate_wait_held(&f.gate, 40 * TEST_PAGE, TEST_PAGE, 1);
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(f.client, images, 40 * TEST_PAGE, TEST_PAGE));
        cr_assert_eq(test_child_wait(pid), 0);
        if (!*huge) /* a read of a huge page's rest may run over the page that is under way, without using it */
                cr_assert_eq(test_gate_count(&f.gate, 40 * TEST_PAGE, TEST_PAGE), 1, "it was read twice");
        fixture_stop(&f);
}

TEST(together, page_wanted_by_ring_then_by_peer) {
        ring_and_peer("", true);
}

TEST(together, page_wanted_by_peer_then_by_ring) {
        ring_and_peer("", false);
}

TEST(together, huge_page_wanted_by_ring_then_by_peer) {
        require_hugepages(2, HUGE_2M);
        ring_and_peer(",huge=2M", true);
}

TEST(together, huge_page_wanted_by_peer_then_by_ring) {
        require_hugepages(2, HUGE_2M);
        ring_and_peer(",huge=2M", false);
}

TEST(together, two_peers_and_four_clients_read_everything_at_once) {
        struct ensure_call calls[4];
        struct fixture f;
        pb_client *clients[4];
        pid_t pids[2];

        fixture_start(&f, "", "--io=auto");
        f.task.run = peer_read_everything;
        for (unsigned i = 0; i < 2; i++)
                pids[i] = peer_start(&f.task);
        for (unsigned i = 0; i < 4; i++) {
                clients[i] = test_connect(&f.broker, PB_ROLE_DEVICE);
                ensure_start(&calls[i], clients[i], 0, 1024 * TEST_PAGE, PB_READ);
        }
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(ensure_wait(&calls[i]), 0);
                cr_assert(content_is_right(clients[i], images, 0, 1024 * TEST_PAGE));
                clients[i] = test_disconnect(clients[i]);
        }
        for (unsigned i = 0; i < 2; i++)
                cr_assert_eq(test_child_wait(pids[i]), 0);
        fixture_stop(&f);
}

/* ---- ends ---- */

TEST(together, killed_peers_fetch_goes_on_for_a_client) {
        struct ensure_call call;
        struct fixture f;
        pid_t pid;

        fixture_start(&f, "", "--io=auto");
        hold_page(&f);
        f.task.run = peer_read_pages;
        pid = peer_start(&f.task);
        wait_faults(&f, 1, 0);
        test_gate_wait_held(&f.gate, 40 * TEST_PAGE, TEST_PAGE, 1);
        ensure_start(&call, f.client, 40 * TEST_PAGE, TEST_PAGE, PB_READ);
        wait_faults(&f, 1, 1);
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        cr_assert(EVENTUALLY(get_stats(f.client).peers == 0));
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(f.client, images, 40 * TEST_PAGE, TEST_PAGE));
        fixture_stop(&f);
}

static int disconnect_and_read(pb_client *client, const struct peer_task *task) {
        struct pb_region region;

        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(test_image_expect(&image, 3, (char *) region.addr + 3 * TEST_PAGE));
        return 0;
}

TEST(together, peer_keeps_waiting_for_a_poisoned_page_until_it_is_healed) {
        struct fixture f;
        pid_t pid;

        fixture_start(&f, "", "--source-retries=0");
        test_gate_fail(&f.gate, 40 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        f.task.run = disconnect_and_read;
        peer_run(&f.task);
        f.task.run = peer_tell_and_read; /* reads page 40: not zeros, not anything, but nothing */
        pid = peer_start(&f.task);
        cr_assert(step_await(f.steps.parent));
        wait_faults(&f, 2, 0);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_poisoned == 1));
        cr_assert_eq(pb_ensure(f.client, 40 * TEST_PAGE, 1, PB_READ), -EIO);
        /* An overwrite heals it; what the writer then stores is what the peer finds. */
        cr_assert_eq(test_thread_state(pid, pid), 'S');
        test_ensure(f.client, 40 * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        cr_assert_eq(test_child_wait(pid), 1); /* zeros are not the image's page: it says so, and ends */
        fixture_stop(&f);
}

/* ---- discard under a peer ---- */

static int read_discarded(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);

        CHILD_CHECK(content_is_right(client, images, 30 * TEST_PAGE, 20 * TEST_PAGE)); /* mapped, all of them */
        CHILD_CHECK(pb_discard(client, 40 * TEST_PAGE, 4 * TEST_PAGE) == 0);
        CHILD_CHECK(is_zero(memory + 40 * TEST_PAGE, 4 * TEST_PAGE));
        CHILD_CHECK(content_is_right(client, images, 30 * TEST_PAGE, 10 * TEST_PAGE));
        CHILD_CHECK(content_is_right(client, images, 44 * TEST_PAGE, 6 * TEST_PAGE));
        CHILD_CHECK(pb_discard(client, 700 * TEST_PAGE, 4 * TEST_PAGE) == 0); /* absent, not mapped */
        CHILD_CHECK(is_zero(memory + 700 * TEST_PAGE, 4 * TEST_PAGE));
        memory[40 * TEST_PAGE] = 'd';
        CHILD_CHECK(memory[40 * TEST_PAGE] == 'd');
        CHILD_CHECK(content_is_right(client, images, 512 * TEST_PAGE, 188 * TEST_PAGE));
        return 0;
}

static void discard_under_a_peer(const char *huge) {
        struct fixture f;

        fixture_start(&f, huge, "--io=auto");
        f.task.run = read_discarded;
        peer_run(&f.task);
        cr_assert_eq(test_gate_count(&f.gate, 700 * TEST_PAGE, 4 * TEST_PAGE), 0);
        fixture_stop(&f);
}

TEST(together, discarded_pages_are_zeros_for_the_peer) {
        discard_under_a_peer("");
}

TEST(together, small_pages_discarded_in_a_huge_page_are_zeros_for_the_peer) {
        require_hugepages(2, HUGE_2M);
        discard_under_a_peer(",huge=2M");
}
