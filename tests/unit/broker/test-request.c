/* SPDX-License-Identifier: MIT */
/* How a request is issued, parked, handed back and forgotten. serve_claimed() is ours here: it notes what was claimed. */
#include "broker/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/memory.h"
#include "broker/serve.h"
#include "protocol/order.h"
#include "tests/lib/test.h"

#define N_SLICES 128u

static struct {
        struct memory *memory;
        struct driver driver;
        uint64_t claimed[N_SLICES]; /* not settled yet */
        unsigned flags[N_SLICES];
        unsigned n_completed, n_more, n_forgotten;
        int result;
        bool serve_at_once;
} t;

static void settle(uint64_t slice, int result) {
        uint64_t mask = t.claimed[slice];

        t.claimed[slice] = 0;
        if (result == 0) {
                order_present_publish(&t.memory->present[slice * 2], (uint32_t) mask);
                order_present_publish(&t.memory->present[slice * 2 + 1], (uint32_t) (mask >> 32));
        }
        waits_done(slice_settle(t.memory, slice, mask, result));
}

void serve_claimed(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t claimed,
                   enum request_class class, unsigned flags) {
        t.claimed[slice] |= claimed;
        t.flags[slice] = flags;
        if (t.serve_at_once)
                settle(slice, 0);
}

static void on_complete(struct request *request, int result) {
        t.n_completed++;
        t.result = result;
}

static void on_more(struct request *request) {
        t.n_more++;
}

static void on_forgotten(struct request *request) {
        t.n_forgotten++;
}

static const struct request_ops ops = { .complete = on_complete, .more = on_more, .forgotten = on_forgotten };

static void start(void) {
        memset(&t, 0, sizeof t);
        cr_assert_eq(memory_new(&t.memory, &(struct memory_options) { .vm = "test", .name = "ram0",
                                                                      .size = N_SLICES * SLICE_PAGES * 4096,
                                                                      .backing_size = 4096, .epoch = 1 }, NULL), 0);
        cr_assert_eq(driver_init(&t.driver), 0);
        driver_enter(&t.driver);
}

static void stop(struct request *request) {
        request_done(request);
        cr_assert_eq(t.memory->pages_in_flight, 0);
        driver_done(&t.driver);
        (void) memory_free(t.memory);
}

static void prepare(struct request *request, uint64_t first, uint64_t count, unsigned window) {
        memset(request, 0, sizeof *request);
        request->ranges[0] = (struct page_range) { .memory = t.memory, .first = first, .count = count };
        request->n_ranges = 1;
        cr_assert_eq(request_init(request, &t.driver, CLASS_DEVICE, window, &ops), 0);
}

/* Gives back what the inbox holds. Returns how many. */
static unsigned run_inbox(void) {
        unsigned n = 0;

        for (struct request *request = driver_take(&t.driver), *next; request; request = next, n++) {
                next = request->inbox_next;
                request_resume(request);
        }
        return n;
}

TEST(request, served_at_once_is_decided_at_once) {
        struct request request;

        start();
        t.serve_at_once = true;
        prepare(&request, 10, 300, 4);
        cr_assert_eq(request_count_slices(&request, 64), 5);
        cr_assert_eq(request_count_slices(&request, 3), 3);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_DECIDED);
        cr_assert_eq(request_result(&request), 0);
        cr_assert(memory_is_present(t.memory, 10, 300));
        cr_assert(!memory_is_present(t.memory, 9, 1));
        cr_assert(!memory_is_present(t.memory, 310, 1));
        cr_assert_eq(run_inbox(), 0);
        stop(&request);
}

TEST(request, present_pages_are_skipped) {
        struct request request;

        start();
        memset(t.memory->present, 0xff, N_SLICES * 8);
        prepare(&request, 0, N_SLICES * SLICE_PAGES, 4);
        cr_assert_eq(request_issue(NULL, &request, 1), REQUEST_DECIDED);
        stop(&request);
}

TEST(request, issues_so_many_slices_and_no_more) {
        struct request request;

        start();
        t.serve_at_once = true;
        prepare(&request, 0, 10 * SLICE_PAGES, 4);
        cr_assert_eq(request_issue(NULL, &request, 3), REQUEST_MORE);
        cr_assert(memory_is_present(t.memory, 0, 3 * SLICE_PAGES));
        cr_assert(!memory_is_present(t.memory, 3 * SLICE_PAGES, 1));
        cr_assert_eq(request_issue(NULL, &request, 100), REQUEST_DECIDED);
        stop(&request);
}

TEST(request, parked_one_comes_back_once_when_all_has_come) {
        struct request request;

        start();
        prepare(&request, 5, 3 * SLICE_PAGES, 16);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        for (unsigned slice = 0; slice < 4; slice++) {
                cr_assert_eq(run_inbox(), 0);
                settle(slice, 0);
        }
        cr_assert_eq(run_inbox(), 1);
        cr_assert_eq(t.n_completed, 1);
        cr_assert_eq(t.result, 0);
        cr_assert_eq(run_inbox(), 0);
        stop(&request);
}

/* With a full window it parks, and comes back when half of it is free. */
TEST(request, window_bounds_what_is_in_flight) {
        struct request request;
        unsigned n = 0;

        start();
        prepare(&request, 0, 20 * SLICE_PAGES, 8);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        for (unsigned slice = 0; slice < N_SLICES; slice++)
                n += t.claimed[slice] != 0;
        cr_assert_eq(n, 8);
        for (unsigned slice = 0; slice < 3; slice++)
                settle(slice, 0);
        cr_assert_eq(run_inbox(), 0);
        settle(7, 0);
        cr_assert_eq(run_inbox(), 1);
        cr_assert_eq(t.n_more, 1);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        for (unsigned turn = 0; turn < 100 && !t.n_completed; turn++) {
                for (unsigned slice = 0; slice < N_SLICES; slice++)
                        if (t.claimed[slice])
                                settle(slice, 0);
                t.n_more = 0;
                (void) run_inbox();
                if (t.n_more)
                        (void) request_issue(NULL, &request, 64);
        }
        cr_assert_eq(t.n_completed, 1);
        cr_assert(memory_is_present(t.memory, 0, 20 * SLICE_PAGES));
        stop(&request);
}

TEST(request, failure_decides_it_when_nothing_is_in_flight_any_more) {
        struct request request;

        start();
        prepare(&request, 0, 3 * SLICE_PAGES, 8);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        settle(1, -EIO);
        cr_assert_eq(t.n_completed, 0);
        settle(0, 0);
        settle(2, -ENOMEM);
        cr_assert_eq(run_inbox(), 1);
        cr_assert_eq(t.n_completed, 1);
        cr_assert_eq(t.result, -EIO, "not the first error");
        stop(&request);
}

TEST(request, best_effort_leaves_out_what_fails) {
        struct request request;

        start();
        prepare(&request, 0, 3 * SLICE_PAGES, 8);
        request.best_effort = true;
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        settle(1, -EIO);
        settle(0, 0);
        settle(2, 0);
        cr_assert_eq(run_inbox(), 1);
        cr_assert_eq(t.result, 0);
        stop(&request);
}

TEST(request, poisoned_page_fails_it_before_it_waits) {
        struct request request;
        uint64_t claimed;

        start();
        cr_assert_eq(slice_want(t.memory, 2, 1, 0, NULL, &claimed), 0);
        waits_done(slice_poison(t.memory, 2, 1, -EIO));
        prepare(&request, 2 * SLICE_PAGES, 1, 2);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_DECIDED);
        cr_assert_eq(request_result(&request), -EIO);
        stop(&request);
}

TEST(request, two_that_want_the_same_page_claim_it_once) {
        struct request first, second;

        start();
        prepare(&first, 3, 1, 1);
        prepare(&second, 3, 1, 1);
        cr_assert_eq(request_issue(NULL, &first, 64), REQUEST_PARKED);
        cr_assert_eq(t.claimed[0], 8);
        t.claimed[0] = 0;
        cr_assert_eq(request_issue(NULL, &second, 64), REQUEST_PARKED);
        cr_assert_eq(t.claimed[0], 0);
        t.claimed[0] = 8;
        settle(0, 0);
        cr_assert_eq(run_inbox(), 2);
        cr_assert_eq(t.n_completed, 2);
        request_done(&first);
        stop(&second);
}

TEST(request, overwrite_asks_for_zeros) {
        struct request request;

        start();
        t.serve_at_once = true;
        prepare(&request, 0, 2 * SLICE_PAGES, 2);
        request.ranges[0].overwrite = true;
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_DECIDED);
        cr_assert_eq(t.flags[0], SERVE_ZERO);
        cr_assert_eq(t.flags[1], SERVE_ZERO);
        stop(&request);
}

/* ---- forgotten: the owner is gone ---- */

TEST(request, forgotten_while_parked_is_free_at_once) {
        struct request request;

        start();
        prepare(&request, 0, 3 * SLICE_PAGES, 8);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        cr_assert(request_forget(&request));
        for (unsigned slice = 0; slice < 3; slice++)
                settle(slice, 0); /* nobody's waits */
        cr_assert_eq(run_inbox(), 0);
        cr_assert_eq(t.n_completed + t.n_forgotten, 0);
        stop(&request);
}

TEST(request, forgotten_when_it_is_in_the_inbox_already_comes_back_as_forgotten) {
        struct request request;

        start();
        prepare(&request, 0, SLICE_PAGES, 8);
        cr_assert_eq(request_issue(NULL, &request, 64), REQUEST_PARKED);
        settle(0, 0);
        cr_assert(!request_forget(&request));
        cr_assert_eq(run_inbox(), 1);
        cr_assert_eq(t.n_forgotten, 1);
        cr_assert_eq(t.n_completed, 0);
        stop(&request);
}

TEST(request, forgotten_between_two_issues_is_free_at_once) {
        struct request request;

        start();
        prepare(&request, 0, 5 * SLICE_PAGES, 8);
        cr_assert_eq(request_issue(NULL, &request, 2), REQUEST_MORE);
        cr_assert(request_forget(&request));
        settle(0, 0);
        settle(1, -EIO);
        cr_assert_eq(run_inbox(), 0);
        stop(&request);
}

/* ---- other threads ---- */

struct settler {
        unsigned first, step;
};

static void *settle_some(void *arg) {
        const struct settler *self = arg;

        for (unsigned slice = self->first; slice < N_SLICES; slice += self->step)
                if (t.claimed[slice])
                        settle(slice, 0);
        return NULL;
}

/* Four threads bring the pages; exactly one of them hands the request back. */
TEST(request, is_handed_back_once_by_racing_threads) {
        struct settler settlers[4];
        struct request request;

        for (unsigned turn = 0; turn < 50; turn++) {
                pthread_t threads[4];

                start();
                prepare(&request, 0, 64 * SLICE_PAGES, 64);
                cr_assert_eq(request_issue(NULL, &request, 65), REQUEST_PARKED);
                for (unsigned i = 0; i < 4; i++) {
                        settlers[i] = (struct settler) { i, 4 };
                        cr_assert(pthread_create(&threads[i], NULL, settle_some, &settlers[i]) == 0);
                }
                for (unsigned i = 0; i < 4; i++)
                        cr_assert(pthread_join(threads[i], NULL) == 0);
                cr_assert_eq(run_inbox(), 1);
                cr_assert_eq(t.n_completed, 1);
                stop(&request);
        }
}
