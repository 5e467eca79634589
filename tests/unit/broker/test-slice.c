/* SPDX-License-Identifier: MIT */
/* Page states: who may do what to a page, and that late, overtaken and retried reads find nothing to do. */
#include "broker/slice.h"

#include <errno.h>
#include <string.h>

#include "broker/fetch.h"
#include "broker/memory.h"
#include "broker/request.h"
#include "protocol/order.h"
#include "tests/lib/test.h"

#define BIT(n) (1ull << (n))

struct fixture {
        struct memory *memory;
        struct driver driver;
        struct fetch_queue queue;
        struct request device, fill;
};

static void fixture_start(struct fixture *f) {
        *f = (struct fixture) { .device.class = CLASS_DEVICE, .fill.class = CLASS_FILL };
        cr_assert_eq(memory_new(&f->memory, &(struct memory_options) { .vm = "test", .name = "ram0", .size = 1 << 20,
                                                                       .backing_size = 4096, .epoch = 1 }, NULL), 0);
        cr_assert_eq(driver_init(&f->driver), 0);
        fetch_queue_init(&f->queue, &f->driver);
}

/* Nothing may be left in flight. */
static void fixture_stop(struct fixture *f) {
        cr_assert_eq(f->memory->pages_in_flight, 0);
        for (unsigned i = 0; i < SLICE_SHARDS; i++)
                cr_assert(f->memory->shards[i].slices == NULL, "a slice outlived its last page in flight");
        fetch_queue_done(&f->queue);
        driver_done(&f->driver);
        (void) memory_free(f->memory);
}

static int want(struct fixture *f, uint64_t mask, unsigned flags, struct wait *wait, uint64_t *ret_claimed) {
        return slice_want(f->memory, 0, mask, flags, wait, ret_claimed);
}

static void set_present(struct fixture *f, uint64_t mask) {
        order_present_publish(&f->memory->present[0], (uint32_t) mask);
        order_present_publish(&f->memory->present[1], (uint32_t) (mask >> 32));
}

static struct fetch *queue_fetch(struct fixture *f, uint64_t mask, enum request_class class) {
        struct fetch *fetch = fetch_new(&f->queue, f->memory, 0, mask, class, 0);

        slice_queue(f->memory, 0, mask, fetch, true);
        return fetch;
}

/* From the queue into the state fetching. */
static uint64_t start_fetch(struct fixture *f, struct fetch *fetch, bool must_be_awaited) {
        cr_assert_eq(fetch_dequeue(&f->queue, NULL, NULL), fetch);
        return slice_start_fetch(f->memory, 0, fetch, must_be_awaited, 0);
}

static unsigned count_waits(struct wait *list) {
        unsigned n = 0;

        for (; list; list = list->next)
                n++;
        return n;
}

TEST(slice, masks_and_runs) {
        unsigned first, count;

        cr_assert_eq(slice_mask(0, 63), ~0ull);
        cr_assert_eq(slice_mask(64 + 3, 64 + 5), 0x38);
        cr_assert_eq(slice_mask(63, 63), BIT(63));
        mask_first_run(0x38 | BIT(40), &first, &count);
        cr_assert(first == 3 && count == 3);
        mask_first_run(~0ull, &first, &count);
        cr_assert(first == 0 && count == 64);
        mask_first_run(BIT(62) | BIT(63), &first, &count);
        cr_assert(first == 62 && count == 2);
}

TEST(slice, absent_pages_are_claimed_once) {
        struct wait first = {}, second = {};
        struct fixture f;
        uint64_t claimed;

        fixture_start(&f);
        first.request = second.request = &f.device;
        cr_assert_eq(want(&f, 0xff, 0, &first, &claimed), 1);
        cr_assert_eq(claimed, 0xff);
        cr_assert_eq(want(&f, 0xff0, 0, &second, &claimed), 1);
        cr_assert_eq(claimed, 0xf00);
        cr_assert_eq(f.memory->pages_in_flight, 12);
        cr_assert_eq(count_waits(slice_settle(f.memory, 0, 0xf0, 0)), 0); /* both wait for more */
        cr_assert_eq(slice_settle(f.memory, 0, 0xf, 0), &first);
        cr_assert_eq(first.result, 0);
        cr_assert_eq(slice_settle(f.memory, 0, 0xf00, 0), &second);
        fixture_stop(&f);
}

TEST(slice, present_pages_are_nothing_to_wait_for) {
        struct wait wait = { 0 };
        struct fixture f;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = &f.device;
        set_present(&f, 0xff);
        cr_assert_eq(want(&f, 0xf, 0, &wait, &claimed), 0);
        cr_assert_eq(claimed, 0);
        cr_assert_eq(want(&f, 0xfff, 0, &wait, &claimed), 1);
        cr_assert_eq(claimed, 0xf00);
        cr_assert_eq(slice_settle(f.memory, 0, 0xf00, 0), &wait);
        fixture_stop(&f);
}

TEST(slice, fetch_goes_from_queued_to_fetching_to_installing) {
        struct wait wait = { 0 };
        struct fixture f;
        struct fetch *fetch;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = &f.device;
        (void) want(&f, 0xf, 0, &wait, &claimed);
        fetch = queue_fetch(&f, claimed, CLASS_DEVICE);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0, "a fetch that has not begun has an answer");
        cr_assert_eq(start_fetch(&f, fetch, true), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0, "one answer, two installs");
        cr_assert_eq(slice_settle(f.memory, 0, 0xf, 0), &wait);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0);
        (void) fetch_free(fetch);
        fixture_stop(&f);
}

/* The read is late, its pages get another; the first answer comes, before or after the second. */
TEST(slice, late_answer_finds_another_ticket) {
        struct wait wait = { 0 };
        struct fixture f;
        struct fetch *first, *second;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = &f.device;
        (void) want(&f, 0xf, 0, &wait, &claimed);
        first = queue_fetch(&f, 0xf, CLASS_DEVICE);
        cr_assert_eq(start_fetch(&f, first, true), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, first), 0xf); /* given up */
        second = queue_fetch(&f, 0xf, CLASS_DEVICE);
        cr_assert_eq(slice_start_install(f.memory, 0, first), 0, "while the second is queued");
        cr_assert_eq(start_fetch(&f, second, true), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, first), 0, "while the second is under way");
        cr_assert_eq(slice_start_install(f.memory, 0, second), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, first), 0, "while the second is installed");
        cr_assert_eq(slice_settle(f.memory, 0, 0xf, 0), &wait);
        cr_assert_eq(slice_start_install(f.memory, 0, first), 0, "after all");
        (void) fetch_free(first);
        (void) fetch_free(second);
        fixture_stop(&f);
}

TEST(slice, take_over_leaves_the_read_nothing_of_what_was_taken) {
        struct wait reader = { 0 }, writer = { 0 };
        struct fixture f;
        struct fetch *fetch;
        uint64_t claimed;

        fixture_start(&f);
        reader.request = writer.request = &f.device;
        (void) want(&f, 0xf, 0, &reader, &claimed);
        fetch = queue_fetch(&f, 0xf, CLASS_DEVICE);
        cr_assert_eq(want(&f, 0x1, SLICE_TAKE_OVER, &writer, &claimed), 1); /* queued */
        cr_assert_eq(claimed, 0x1);
        cr_assert_eq(slice_settle(f.memory, 0, 0x1, 0), &writer);
        set_present(&f, 0x1);
        cr_assert_eq(start_fetch(&f, fetch, true), 0xe);
        cr_assert_eq(want(&f, 0x2, SLICE_TAKE_OVER, &writer, &claimed), 1); /* under way */
        cr_assert_eq(claimed, 0x2);
        cr_assert_eq(f.memory->pages_in_flight, 3);
        cr_assert_eq(slice_settle(f.memory, 0, 0x2, 0), &writer);
        set_present(&f, 0x2);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0xc);
        cr_assert_eq(slice_settle(f.memory, 0, 0xc, 0), &reader);
        (void) fetch_free(fetch);
        fixture_stop(&f);
}

TEST(slice, take_over_waits_for_an_install) {
        struct wait reader = { 0 }, writer = { 0 };
        struct fixture f;
        uint64_t claimed;

        fixture_start(&f);
        reader.request = writer.request = &f.device;
        (void) want(&f, 0x3, 0, &reader, &claimed);
        cr_assert_eq(want(&f, 0x7, SLICE_TAKE_OVER, &writer, &claimed), 1);
        cr_assert_eq(claimed, 0x4, "a page that another thread installs was taken");
        (void) slice_settle(f.memory, 0, 0x4, 0);
        cr_assert_eq(count_waits(slice_settle(f.memory, 0, 0x3, 0)), 2);
        fixture_stop(&f);
}

TEST(slice, fetch_that_nobody_waits_for_is_dropped_when_it_would_start) {
        struct wait wait = { 0 };
        struct fixture f;
        struct fetch *fetch;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = &f.device;
        (void) want(&f, 0xf, 0, &wait, &claimed);
        fetch = queue_fetch(&f, 0xf, CLASS_DEVICE);
        cr_assert(slice_forget(&wait));
        cr_assert(!slice_forget(&wait));
        cr_assert_eq(start_fetch(&f, fetch, true), 0);
        (void) fetch_free(fetch);
        cr_assert_eq(want(&f, 0xf, 0, NULL, &claimed), 0); /* and can be claimed anew */
        cr_assert_eq(claimed, 0xf);
        (void) slice_settle(f.memory, 0, 0xf, 0);
        fixture_stop(&f);
}

/* The one who started it leaves; the one who joined is still there, if only as the fill. */
TEST(slice, fetch_that_somebody_joined_starts_after_the_first_has_left) {
        struct wait first = { 0 }, joined = { 0 };
        struct fixture f;
        struct fetch *fetch;
        uint64_t claimed;

        fixture_start(&f);
        first.request = &f.device;
        joined.request = &f.fill;
        (void) want(&f, 0xf, 0, &first, &claimed);
        fetch = queue_fetch(&f, 0xf, CLASS_DEVICE);
        cr_assert_eq(want(&f, 0x4, 0, &joined, &claimed), 1);
        cr_assert(slice_forget(&first));
        cr_assert_eq(start_fetch(&f, fetch, true), 0xf);
        cr_assert_eq(slice_start_install(f.memory, 0, fetch), 0xf);
        cr_assert_eq(slice_settle(f.memory, 0, 0xf, 0), &joined);
        (void) fetch_free(fetch);
        fixture_stop(&f);
}

/* Page 3 of a long read that the fill has queued: it is read alone, and the rest stays where it is in the queue. */
TEST(slice, demand_takes_its_page_out_of_a_queued_background_read) {
        struct wait fill = { 0 }, device = { 0 };
        struct fixture f;
        struct fetch *rest, *mine;
        uint64_t claimed;

        fixture_start(&f);
        fill.request = &f.fill;
        device.request = &f.device;
        (void) want(&f, 0xf, 0, &fill, &claimed);
        rest = queue_fetch(&f, 0xf, CLASS_FILL);
        cr_assert_eq(want(&f, 0x8, 0, &device, &claimed), 1);
        cr_assert_eq(claimed, 0x8);
        mine = queue_fetch(&f, 0x8, CLASS_DEVICE);
        cr_assert_eq(start_fetch(&f, mine, true), 0x8);
        cr_assert_eq(slice_start_install(f.memory, 0, mine), 0x8);
        cr_assert_eq(slice_settle(f.memory, 0, 0x8, 0), &device);
        cr_assert_eq(start_fetch(&f, rest, false), 0x7);
        cr_assert_eq(fetch_n_pages(rest), 3);
        cr_assert_eq(slice_start_install(f.memory, 0, rest), 0x7);
        cr_assert_eq(slice_settle(f.memory, 0, 0x7, 0), &fill);
        (void) fetch_free(mine);
        (void) fetch_free(rest);
        fixture_stop(&f);
}

/* Absent neighbours, and those that wait for a read of their own, which then finds nothing left to do. */
TEST(slice, read_takes_neighbours_along) {
        struct wait first = { 0 }, second = { 0 };
        struct fixture f;
        struct fetch *one, *other;
        uint64_t claimed;

        fixture_start(&f);
        first.request = &f.device;
        second.request = &f.device;
        (void) want(&f, 0x1, 0, &first, &claimed);
        one = queue_fetch(&f, 0x1, CLASS_DEVICE);
        (void) want(&f, 0x4, 0, &second, &claimed);
        other = queue_fetch(&f, 0x4, CLASS_DEVICE);
        cr_assert_eq(fetch_dequeue(&f.queue, NULL, NULL), one);
        cr_assert_eq(slice_start_fetch(f.memory, 0, one, true, 0x3f), 0x3f);
        cr_assert_eq(one->mask, 0x3f);
        cr_assert_eq(start_fetch(&f, other, true), 0);
        cr_assert_eq(atomic_load(&f.memory->pages_in_flight), 6);
        cr_assert_eq(slice_start_install(f.memory, 0, one), 0x3f);
        cr_assert_eq(count_waits(slice_settle(f.memory, 0, 0x3f, 0)), 2);
        cr_assert_eq(atomic_load(&f.memory->pages_in_flight), 0);
        (void) fetch_free(one);
        (void) fetch_free(other);
        fixture_stop(&f);
}

/* A page that has failed keeps its count of tries and its pause: in another's first read both would begin anew. */
TEST(slice, read_does_not_take_retries_along) {
        struct wait first = { 0 }, second = { 0 };
        struct fixture f;
        struct fetch *retry, *read;
        uint64_t claimed;

        fixture_start(&f);
        first.request = &f.device;
        second.request = &f.device;
        (void) want(&f, 0x4, 0, &first, &claimed);
        retry = fetch_new(&f.queue, f.memory, 0, claimed, CLASS_DEVICE, 1);
        slice_queue(f.memory, 0, claimed, retry, false);
        (void) want(&f, 0x1, 0, &second, &claimed);
        read = queue_fetch(&f, claimed, CLASS_DEVICE);
        cr_assert_eq(fetch_dequeue(&f.queue, NULL, NULL), read);
        cr_assert_eq(slice_start_fetch(f.memory, 0, read, true, 0x3e), 0x3b);
        fetch_enqueue(retry);
        cr_assert_eq(start_fetch(&f, retry, true), 0x4, "its own read has to bring it");
        cr_assert_eq(slice_start_install(f.memory, 0, read), 0x3b);
        cr_assert_eq(slice_start_install(f.memory, 0, retry), 0x4);
        cr_assert_eq(slice_settle(f.memory, 0, 0x3b, 0), &second);
        cr_assert_eq(slice_settle(f.memory, 0, 0x4, 0), &first);
        (void) fetch_free(read);
        (void) fetch_free(retry);
        fixture_stop(&f);
}

/* The demand joined while the fill's thread still looked into page cache: there was nothing to raise yet. */
TEST(slice, demand_that_joined_before_the_fetch_was_queued_counts) {
        struct wait fill = { 0 }, device = { 0 };
        struct fixture f;
        struct fetch *fetch;
        uint64_t claimed;

        fixture_start(&f);
        fill.request = &f.fill;
        device.request = &f.device;
        (void) want(&f, 0xf, 0, &fill, &claimed);
        (void) want(&f, 0x8, 0, &device, &claimed);
        cr_assert_eq(claimed, 0);
        fetch = queue_fetch(&f, 0xf, CLASS_FILL);
        cr_assert(class_is_demand(fetch->class));
        cr_assert_eq(start_fetch(&f, fetch, true), 0xf);
        (void) slice_start_install(f.memory, 0, fetch);
        (void) slice_settle(f.memory, 0, 0xf, 0);
        (void) fetch_free(fetch);
        fixture_stop(&f);
}

/* ---- failures ---- */

TEST(slice, poison_fails_who_waits_and_who_comes) {
        struct wait wait = { 0 }, later = { 0 };
        struct fixture f;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = later.request = &f.device;
        (void) want(&f, 0xf, 0, &wait, &claimed);
        cr_assert_eq(slice_poison(f.memory, 0, 0x2, -EIO), &wait);
        cr_assert_eq(wait.result, -EIO);
        (void) slice_settle(f.memory, 0, 0xd, 0);
        cr_assert_eq(f.memory->pages_poisoned, 1);
        cr_assert_eq(memory_poison_reason(f.memory, 1), -EIO);
        cr_assert_eq(memory_poison_reason(f.memory, 0), 0);
        cr_assert_eq(want(&f, 0x2, 0, &later, &claimed), -EIO);
        cr_assert_eq(want(&f, 0x22, SLICE_SKIP_POISONED, &later, &claimed), 1);
        cr_assert_eq(claimed, 0x20);
        cr_assert_eq(slice_settle(f.memory, 0, 0x20, 0), &later);
        cr_assert_eq(want(&f, 0x2, SLICE_SKIP_POISONED, &later, &claimed), 0);
        fixture_stop(&f);
}

TEST(slice, take_over_heals) {
        struct wait wait = { 0 };
        struct fixture f;
        uint64_t claimed;

        fixture_start(&f);
        wait.request = &f.device;
        (void) want(&f, 0x3, 0, &wait, &claimed);
        (void) slice_poison(f.memory, 0, 0x3, -ETIMEDOUT);
        cr_assert_eq(want(&f, 0x1, SLICE_TAKE_OVER, &wait, &claimed), 1);
        cr_assert_eq(claimed, 0x1);
        cr_assert_eq(f.memory->pages_poisoned, 1);
        cr_assert_eq(memory_poison_mask(f.memory, 0), 0x2);
        (void) slice_settle(f.memory, 0, 0x1, 0);
        fixture_stop(&f);
}

TEST(slice, failure_of_what_only_a_hint_wanted_leaves_demanded_pages_with_the_caller) {
        struct wait fill = { 0 }, device = { 0 };
        struct fixture f;
        uint64_t claimed, demanded;

        fixture_start(&f);
        fill.request = &f.fill;
        device.request = &f.device;
        (void) want(&f, 0xf, 0, &fill, &claimed);
        (void) want(&f, 0x4, 0, &device, &claimed);
        cr_assert_eq(slice_settle_unwanted(f.memory, 0, 0xf, -EIO, false, &demanded), &fill);
        cr_assert_eq(fill.result, -EIO);
        cr_assert_eq(demanded, 0x4);
        cr_assert_eq(f.memory->pages_in_flight, 1);
        cr_assert_eq(f.memory->pages_poisoned, 0);
        cr_assert_eq(slice_settle(f.memory, 0, 0x4, 0), &device);
        cr_assert_eq(device.result, 0);
        fixture_stop(&f);
}
