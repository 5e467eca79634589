/* SPDX-License-Identifier: MIT */
/* When the pager is to look after the fill again. Its thread does not run here. */
#include "broker/memory.h"
#include "broker/order-background.h"
#include "broker/pager-internal.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "common/clock.h"
#include "tests/lib/test.h"

#define PAGES 8192u

struct fixture {
        struct memory *memory;
        struct pager *pager;
        uint64_t now_us;
};

static void on_completed(void *data) {
}

static void fixture_start(struct fixture *f, uint64_t rate) {
        const struct pager_events events = { .completed = on_completed };
        struct pager_options options = PAGER_OPTIONS_DEFAULT;

        options.fill_rate = rate;
        options.reader = READER_THREADS;
        cr_assert_eq(memory_new(&f->memory, &(struct memory_options) { .vm = "test", .name = "ram0", .size = PAGES * 4096,
                                                                       .backing_size = 4096, .epoch = 1 }, NULL), 0);
        cr_assert_eq(source_new_zero(&f->memory->source, PAGES * 4096), 0);
        cr_assert_eq(pager_new(&f->pager, &options, &events), 0);
        pager_add_memory(f->pager, f->memory);
        f->pager->fill_on = true;
        f->now_us = clock_now_us();
        cr_assert(pager_fill_step(f->pager, f->now_us));
}

static void fixture_stop(struct fixture *f) {
        struct fetch *fetch;

        while ((fetch = fetch_dequeue(&f->pager->fetch_queue, NULL, NULL)))
                (void) fetch_free(fetch);
        f->pager = pager_free(f->pager);
        f->memory = memory_free(f->memory);
}

/* As many reads as the fill may have before it, which wait for a source that is slow. */
static void queue_reads(struct fixture *f) {
        for (unsigned i = 0; i < ORDER_FILL_AHEAD; i++) {
                struct fetch *fetch = fetch_new(&f->pager->fetch_queue, f->memory, i, 1, CLASS_FILL, 0);

                cr_assert(fetch != NULL);
                fetch_enqueue(fetch);
        }
}

TEST(pager_fill, that_waits_for_reads_is_looked_after_when_they_end) {
        struct fixture f;

        fixture_start(&f, 0);
        queue_reads(&f);
        cr_assert_not(pager_fill_step(f.pager, f.now_us));
        cr_assert_eq(pager_fill_next(f.pager, f.now_us), USEC_INFINITY);
        fixture_stop(&f);
}

/* Its rate would let it go on at once: that is no reason to look until it may. */
TEST(pager_fill, with_a_rate_that_waits_for_reads_does_not_keep_the_pager_awake) {
        struct fixture f;

        fixture_start(&f, 1ull << 40);
        queue_reads(&f);
        cr_assert_not(pager_fill_step(f.pager, f.now_us));
        cr_assert_eq(pager_fill_next(f.pager, f.now_us), USEC_INFINITY);
        fixture_stop(&f);
}

TEST(pager_fill, is_looked_after_when_its_rate_lets_it_go_on) {
        struct fixture f;

        fixture_start(&f, 1ull << 40);
        f.pager->fill_limit.due_us = f.now_us + 1000;
        cr_assert_eq(pager_fill_next(f.pager, f.now_us), f.now_us + 1000);
        fixture_stop(&f);
}
