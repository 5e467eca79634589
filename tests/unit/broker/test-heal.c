/* SPDX-License-Identifier: MIT */
/* Poison bits and reasons, and the way back. */
#include <errno.h>

#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "tests/lib/test.h"

#define PAGES 8192u

struct fixture {
        struct memory *memory;
        struct pager *pager;
};

static void on_completed(void *data) {
}

static void fixture_start(struct fixture *f) {
        const struct pager_events events = { .completed = on_completed };
        struct pager_options options = PAGER_OPTIONS_DEFAULT;

        options.fill = false;
        options.reader = READER_THREADS;
        cr_assert_eq(memory_new(&f->memory, &(struct memory_options) { .vm = "test", .name = "ram0", .size = PAGES * 4096,
                                                                       .backing_size = 4096, .epoch = 1 }, NULL), 0);
        cr_assert_eq(source_new_zero(&f->memory->source, PAGES * 4096), 0);
        cr_assert_eq(pager_new(&f->pager, &options, &events), 0);
        pager_add_memory(f->pager, f->memory);
}

static void fixture_stop(struct fixture *f) {
        f->pager = pager_free(f->pager);
        f->memory = memory_free(f->memory);
}

static uint64_t heal(struct fixture *f, uint64_t first, uint64_t n) {
        uint64_t healed = UINT64_MAX;

        cr_assert_eq(pager_heal(f->pager, f->memory, first, n, &healed), 0);
        return healed;
}

TEST(heal, clears_what_is_poisoned_and_counts_it) {
        struct fixture f;

        fixture_start(&f);
        memory_poison(f.memory, 0, 0x8000000000000101, -EIO);
        memory_poison(f.memory, 1, 0x3, -EIO);
        memory_poison(f.memory, 127, 1ull << 63, -EIO);
        cr_assert_eq(heal(&f, 1, 7), 0);
        cr_assert_eq(heal(&f, 8, 57), 3); /* 8, 63, 64 */
        cr_assert_eq(memory_poison_mask(f.memory, 0), 1);
        cr_assert_eq(memory_poison_mask(f.memory, 1), 2);
        cr_assert_eq(f.memory->pages_poisoned, 3);
        cr_assert_eq(heal(&f, 0, PAGES), 3);
        cr_assert_eq(memory_poison_mask(f.memory, 127), 0);
        cr_assert_eq(f.memory->pages_poisoned, 0);
        cr_assert_eq(memory_present_mask(f.memory, 0), 0);
        fixture_stop(&f);
}

TEST(heal, page_that_is_poisoned_again_has_its_latest_reason) {
        struct fixture f;

        fixture_start(&f);
        memory_poison(f.memory, 0, 3, -EIO);
        cr_assert_eq(heal(&f, 0, 1), 1);
        cr_assert_eq(memory_poison_reason(f.memory, 0), 0);
        cr_assert_eq(memory_poison_reason(f.memory, 1), -EIO);
        memory_poison(f.memory, 0, 1, -ENODATA);
        cr_assert_eq(memory_poison_reason(f.memory, 0), -ENODATA);
        cr_assert_eq(memory_poison_reason(f.memory, 1), -EIO);
        fixture_stop(&f);
}

/* The table has 4096 places: those of healed pages are used again. */
TEST(heal, reasons_of_many_rounds_stay_right) {
        struct fixture f;

        fixture_start(&f);
        for (unsigned round = 0; round < 20; round++) {
                for (unsigned slice = 0; slice < 32; slice++)
                        memory_poison(f.memory, slice, ~0ull, -EIO);
                memory_poison(f.memory, 40, 1, -ENODATA);
                memory_poison(f.memory, 41, 1, -ETIMEDOUT);
                cr_assert_eq(memory_poison_reason(f.memory, 40 * 64), -ENODATA, "round %u", round);
                cr_assert_eq(memory_poison_reason(f.memory, 41 * 64), -ETIMEDOUT, "round %u", round);
                cr_assert_eq(heal(&f, 0, PAGES), 32 * 64 + 2);
        }
        fixture_stop(&f);
}

static bool is_healed(const struct fixture *f) {
        return atomic_load(&f->memory->pages_poisoned) == 0;
}

TEST(heal, follows_a_source_that_says_it_is_back) {
        struct fixture f;

        fixture_start(&f);
        cr_assert_eq(pager_start(f.pager), 0);
        for (unsigned round = 0; round < 3; round++) {
                memory_poison(f.memory, 5, 0xff, -EIO);
                source_returned(f.memory->source);
                cr_assert(EVENTUALLY(is_healed(&f)));
        }
        fixture_stop(&f);
}
