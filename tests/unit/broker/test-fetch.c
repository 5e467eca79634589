/* SPDX-License-Identifier: MIT */
#include "broker/fetch.h"

#include "tests/lib/test.h"

struct fixture {
        struct driver driver;
        struct fetch_queue queue;
};

static void fixture_start(struct fixture *f) {
        cr_assert_eq(driver_init(&f->driver), 0);
        fetch_queue_init(&f->queue, &f->driver);
}

static void fixture_stop(struct fixture *f) {
        fetch_queue_done(&f->queue);
        driver_done(&f->driver);
}

static struct fetch *add(struct fixture *f, uint64_t slice, enum request_class class) {
        struct fetch *fetch = fetch_new(&f->queue, NULL, slice, 1, class, 0);

        cr_assert(fetch != NULL);
        fetch_enqueue(fetch);
        return fetch;
}

static bool is_demand(struct fetch *fetch, void *data) {
        return class_is_demand(fetch->class);
}

static uint64_t next(struct fixture *f, bool demand_only) {
        struct fetch *fetch = fetch_dequeue(&f->queue, demand_only ? is_demand : NULL, NULL);
        uint64_t slice = fetch ? fetch->slice : UINT64_MAX;

        (void) fetch_free(fetch);
        return slice;
}

TEST(fetch, queue_goes_by_class_then_by_age) {
        struct fixture f;

        fixture_start(&f);
        (void) add(&f, 1, CLASS_FILL);
        (void) add(&f, 2, CLASS_DEVICE);
        (void) add(&f, 3, CLASS_PREFETCH);
        (void) add(&f, 4, CLASS_VCPU);
        (void) add(&f, 5, CLASS_DEVICE);
        cr_assert_eq(next(&f, false), 4);
        cr_assert_eq(next(&f, false), 2);
        cr_assert_eq(next(&f, false), 5);
        cr_assert_eq(next(&f, false), 3);
        cr_assert(!fetch_queue_is_empty(&f.queue));
        cr_assert_eq(next(&f, false), 1);
        cr_assert(fetch_queue_is_empty(&f.queue));
        cr_assert_eq(next(&f, false), UINT64_MAX);
        fixture_stop(&f);
}

TEST(fetch, hints_and_fill_wait_while_only_demand_is_taken) {
        struct fixture f;

        fixture_start(&f);
        (void) add(&f, 1, CLASS_FILL);
        (void) add(&f, 3, CLASS_PREFETCH);
        cr_assert_eq(next(&f, true), UINT64_MAX);
        (void) add(&f, 2, CLASS_DEVICE);
        cr_assert_eq(next(&f, true), 2);
        fixture_stop(&f); /* frees what is queued */
}

static bool is_not_slice(struct fetch *fetch, void *slice) {
        return fetch->slice != *(uint64_t *) slice;
}

TEST(fetch, who_is_not_taken_keeps_its_place) {
        struct fixture f;
        uint64_t slice = 1;
        struct fetch *fetch;

        fixture_start(&f);
        (void) add(&f, 1, CLASS_DEVICE);
        (void) add(&f, 2, CLASS_DEVICE);
        fetch = fetch_dequeue(&f.queue, is_not_slice, &slice);
        cr_assert(fetch && fetch->slice == 2);
        (void) fetch_free(fetch);
        cr_assert_eq(fetch_dequeue(&f.queue, is_not_slice, &slice), NULL);
        (void) add(&f, 3, CLASS_DEVICE);
        cr_assert_eq(next(&f, false), 1);
        cr_assert_eq(next(&f, false), 3);
        fixture_stop(&f);
}

static void add_for(struct fixture *f, uint64_t slice, uint64_t owner) {
        struct fetch *fetch = fetch_new(&f->queue, NULL, slice, 1, CLASS_DEVICE, 0);

        cr_assert(fetch != NULL);
        fetch->owner = owner;
        fetch_enqueue(fetch);
}

TEST(fetch, clients_of_a_class_take_turns) {
        struct fixture f;

        fixture_start(&f);
        for (uint64_t i = 0; i < 100; i++)
                add_for(&f, i, 7);
        add_for(&f, 1000, 8);
        add_for(&f, 1001, 8);
        add_for(&f, 2000, 9);
        cr_assert_eq(next(&f, false), 0);
        cr_assert_eq(next(&f, false), 1000);
        cr_assert_eq(next(&f, false), 2000);
        cr_assert_eq(next(&f, false), 1);
        cr_assert_eq(next(&f, false), 1001);
        for (uint64_t i = 2; i < 100; i++)
                cr_assert_eq(next(&f, false), i);
        cr_assert(fetch_queue_is_empty(&f.queue));
        fixture_stop(&f);
}

TEST(fetch, is_raised_and_never_lowered) {
        struct fixture f;
        struct fetch *fill, *device;

        fixture_start(&f);
        fill = add(&f, 1, CLASS_FILL);
        device = add(&f, 2, CLASS_DEVICE);
        fetch_raise(fill, CLASS_VCPU, 1);
        fetch_raise(device, CLASS_FILL, 1);
        cr_assert_eq(device->class, CLASS_DEVICE);
        cr_assert_eq(next(&f, true), 1);
        cr_assert_eq(next(&f, true), 2);
        fixture_stop(&f);
}

TEST(fetch, that_has_left_the_queue_is_not_raised_back_into_it) {
        struct fixture f;
        struct fetch *fetch;

        fixture_start(&f);
        fetch = add(&f, 1, CLASS_FILL);
        cr_assert_eq(fetch_dequeue(&f.queue, NULL, NULL), fetch);
        fetch_raise(fetch, CLASS_VCPU, 1);
        cr_assert(fetch_queue_is_empty(&f.queue));
        (void) fetch_free(fetch);
        fixture_stop(&f);
}

TEST(fetch, tickets_differ_and_are_never_zero) {
        struct fixture f;
        struct fetch *fetches[3];

        fixture_start(&f);
        f.queue.last_ticket = UINT32_MAX - 1;
        for (unsigned i = 0; i < 3; i++)
                fetches[i] = fetch_new(&f.queue, NULL, 0, 1, CLASS_DEVICE, 0);
        cr_assert_eq(fetches[0]->ticket, UINT32_MAX);
        cr_assert_eq(fetches[1]->ticket, 1);
        cr_assert_eq(fetches[2]->ticket, 2);
        for (unsigned i = 0; i < 3; i++)
                (void) fetch_free(fetches[i]);
        fixture_stop(&f);
}

TEST(fetch, read_spans_first_to_last_page) {
        struct fixture f;
        struct fetch *fetch;

        fixture_start(&f);
        fetch = fetch_new(&f.queue, NULL, 3, 1ull << 5 | 1ull << 9, CLASS_DEVICE, 0);
        cr_assert_eq(fetch_first_page(fetch), 3 * 64 + 5);
        cr_assert_eq(fetch_n_pages(fetch), 5);
        fetch->read_mask = ~0ull;
        cr_assert_eq(fetch_first_page(fetch), 3 * 64);
        cr_assert_eq(fetch_n_pages(fetch), 64);
        (void) fetch_free(fetch);
        fixture_stop(&f);
}
