/* SPDX-License-Identifier: MIT */
/* Many requests in flight, and many clients. The source is held where a test must know that nothing has come yet. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>

#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

#define N_REQUESTS 1000u
#define N_PAGES 1024u

static struct test_image image;
static const struct test_image *const images[] = { &image };

struct fixture {
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
};

static void fixture_start(struct fixture *f, const char *more) {
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 11, .n_pages = N_PAGES });
        test_gate_start(&f->gate, &image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, ""), "--fill=off", more);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

static void fixture_stop(struct fixture *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&image);
}

static int submit_page(pb_client *client, uint64_t page) {
        const struct pb_range range = { .gpa = page * TEST_PAGE, .len = TEST_PAGE, .intent = PB_READ };

        return pb_submit(client, &range, 1, page + 1000000);
}

/* Reaps until `n` have come; each page once, with `result` and, if that is 0, its content. */
static void reap_pages(pb_client *client, unsigned n, bool seen[], int (*result_of)(uint64_t page)) {
        struct pb_completion completions[64];

        while (n > 0) {
                int got = pb_reap(client, completions, ELEMENTS(completions));

                cr_assert(got >= 0, "pb_reap: %s", strerror(-got));
                if (got == 0)
                        cr_assert(poll(&(struct pollfd) { .fd = pb_get_fd(client), .events = POLLIN }, 1,
                                       TEST_PATIENCE_US / USEC_PER_MSEC) == 1,
                                  "%u completions do not come", n);
                for (int i = 0; i < got; i++) {
                        uint64_t page = completions[i].cookie - 1000000;

                        cr_assert(page < N_PAGES && !seen[page]);
                        seen[page] = true;
                        cr_assert_eq(completions[i].result, result_of(page), "page %d: %d", (int) page,
                                     completions[i].result);
                        if (completions[i].result == 0)
                                cr_assert(content_is_right(client, images, page * TEST_PAGE, TEST_PAGE));
                }
                n -= (unsigned) got;
        }
        cr_assert_eq(pb_reap(client, completions, 1), 0);
}

static int always_good(uint64_t page) {
        return 0;
}

TEST(async, thousand_requests_in_flight_all_complete) {
        struct fixture f;
        bool seen[N_PAGES] = {};
        struct pb_completion completion;

        fixture_start(&f, "--io=auto");
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        for (unsigned i = 0; i < N_REQUESTS; i++)
                cr_assert_eq(submit_page(f.client, i), 0, "%u", i);
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == N_REQUESTS));
        cr_assert_eq(pb_reap(f.client, &completion, 1), 0);
        cr_assert_eq(get_stats(f.client).pages_present, 0);
        test_gate_open(&f.gate);
        reap_pages(f.client, N_REQUESTS, seen, always_good);
        for (unsigned i = 0; i < N_PAGES; i++)
                cr_assert_eq(seen[i], i < N_REQUESTS);
        cr_assert_eq(submit_page(f.client, 5), 1, "present: no completion follows");
        fixture_stop(&f);
}

TEST(async, all_slots_taken_is_eagain_until_some_are_reaped) {
        struct fixture f;
        bool seen[N_PAGES] = {};

        fixture_start(&f, "--io=auto");
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        for (unsigned i = 0; i < N_PAGES; i++)
                cr_assert_eq(submit_page(f.client, i), 0, "%u", i);
        cr_assert_eq(submit_page(f.client, 3), -EAGAIN);
        test_gate_open(&f.gate);
        reap_pages(f.client, N_PAGES, seen, always_good);
        fixture_stop(&f);
}

static int page_100_fails(uint64_t page) {
        return page == 100 ? -EIO : 0;
}

TEST(async, one_failing_request_of_many_fails_alone) {
        struct fixture f;
        bool seen[N_PAGES] = {};

        fixture_start(&f, "--source-retries=1");
        test_gate_fail(&f.gate, 100 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        for (unsigned i = 0; i < 500; i++)
                cr_assert_eq(submit_page(f.client, i), 0);
        reap_pages(f.client, 500, seen, page_100_fails);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_poisoned == 1));
        fixture_stop(&f);
}

TEST(async, requests_of_a_client_that_leaves_are_dropped) {
        struct fixture f;
        pb_client *leaver;

        fixture_start(&f, "--io=auto");
        leaver = test_connect(&f.broker, PB_ROLE_DEVICE);
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        for (unsigned i = 0; i < 500; i++)
                cr_assert_eq(submit_page(leaver, i), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 500));
        test_gate_wait_held(&f.gate, 0, UINT64_MAX, 1);
        (void) pb_disconnect(leaver);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == 1));
        test_gate_open(&f.gate);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0));
        cr_assert(get_stats(f.client).pages_present < 500, "queued reads that nobody waits for any more were started");
        cr_assert(ensure_is_right(f.client, images, 0, N_PAGES * TEST_PAGE));
        fixture_stop(&f);
}

/* ---- clients ---- */

#define N_CLIENTS 256u

TEST(async, serves_256_clients_at_once) {
        static struct ensure_call calls[N_CLIENTS];
        static pb_client *clients[N_CLIENTS];
        struct rlimit limit;
        struct fixture f;

        cr_assert(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        if (limit.rlim_max < 3000)
                cr_skip_test("needs 3000 descriptors, RLIMIT_NOFILE allows %llu", (unsigned long long) limit.rlim_max);
        limit.rlim_cur = 3000;
        cr_assert(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        fixture_start(&f, "--io=auto");
        for (unsigned i = 0; i < N_CLIENTS; i++)
                clients[i] = test_connect(&f.broker, PB_ROLE_DEVICE);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == N_CLIENTS + 1));
        /* All of them wait at once, each for a page of its own and for one that all want. */
        test_gate_hold(&f.gate, 0, UINT64_MAX);
        for (unsigned i = 0; i < N_CLIENTS; i++)
                ensure_start(&calls[i], clients[i], i * TEST_PAGE, (N_CLIENTS - i) * TEST_PAGE + 1, PB_READ);
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == N_CLIENTS));
        test_gate_open(&f.gate);
        for (unsigned i = 0; i < N_CLIENTS; i++) {
                cr_assert_eq(ensure_wait(&calls[i]), 0, "%u: %s", i, calls[i].reason);
                cr_assert(content_is_right(clients[i], images, i * TEST_PAGE, TEST_PAGE));
                cr_assert(content_is_right(clients[i], images, N_CLIENTS * TEST_PAGE, TEST_PAGE));
        }
        cr_assert(EVENTUALLY(get_stats(f.client).pages_present == N_CLIENTS + 1));
        for (unsigned i = 0; i < N_CLIENTS; i++)
                clients[i] = test_disconnect(clients[i]);
        cr_assert(EVENTUALLY(get_stats(f.client).clients == 1));
        fixture_stop(&f);
}

TEST(async, client_limit_turns_away_and_room_lets_in_again) {
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE };
        struct test_broker broker;
        pb_client *first, *second, *third = NULL;

        TEST_BROKER_START(&broker, "--memory=ram0,size=1M", "--client-limit=2", "--fill=off");
        first = test_connect(&broker, PB_ROLE_VMM);
        second = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(pb_connect(&third, broker.address, &options) < 0);
        second = test_disconnect(second);
        cr_assert(EVENTUALLY(get_stats(first).clients == 1));
        third = test_connect(&broker, PB_ROLE_DEVICE);
        third = test_disconnect(third);
        first = test_disconnect(first);
        test_broker_stop(&broker);
}
