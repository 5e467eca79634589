/* SPDX-License-Identifier: MIT */
/* Each kind of book that does not fit is found, and named. */
#include "broker/audit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker/fetch.h"
#include "broker/memory.h"
#include "broker/publish.h"
#include "broker/request.h"
#include "broker/source.h"
#include "protocol/order.h"
#include "tests/lib/test.h"

#define PAGES 256u

static struct memory *new_memory(void) {
        const struct memory_options options = {
                .vm = "test", .name = "ram0", .size = PAGES * PB_PAGE_BYTES, .backing_size = PB_PAGE_BYTES, .epoch = 1,
        };
        struct memory *memory;

        cr_assert_eq(memory_new(&memory, &options, NULL), 0);
        cr_assert_eq(source_new_zero(&memory->source, memory->size), 0);
        return memory;
}

static char found[1024];

static int note(void *data, const char *what, const char *text) {
        (void) snprintf(found + strlen(found), sizeof found - strlen(found), "%s;", what);
        cr_assert(strncmp(text, "memory ram0: ", 13) == 0);
        return 0;
}

/* The keywords of what was found. */
static const char *audit(struct memory *memory) {
        struct audit_sums sums = {};

        found[0] = 0;
        cr_assert_eq(audit_memory(memory, note, NULL, &sums), 0);
        cr_assert_eq(sums.pages, PAGES);
        return found;
}

static void set_present(struct memory *memory, unsigned page) {
        (void) order_present_publish(&memory->present[page / 32], 1u << page % 32);
}

TEST(audit, a_memory_that_fits_has_no_findings) {
        struct memory *memory = new_memory();

        cr_assert_str_eq(audit(memory), "");
        set_present(memory, 100);
        atomic_fetch_add(&memory->pages_present, 1);
        cr_assert_str_eq(audit(memory), "");
        (void) memory_free(memory);
}

TEST(audit, a_page_that_was_not_counted) {
        struct memory *memory = new_memory();

        set_present(memory, 100);
        cr_assert_str_eq(audit(memory), "present;");
        (void) memory_free(memory);
}

TEST(audit, a_page_that_was_counted_and_is_absent) {
        struct memory *memory = new_memory();

        atomic_fetch_add(&memory->pages_present, 1);
        cr_assert_str_eq(audit(memory), "present;");
        (void) memory_free(memory);
}

TEST(audit, poison_that_was_not_counted) {
        struct memory *memory = new_memory();

        order_poison_set(&memory->poison[0], 4);
        cr_assert_str_eq(audit(memory), "poison;");
        (void) memory_free(memory);
}

TEST(audit, a_page_that_is_present_and_poisoned) {
        struct memory *memory = new_memory();

        set_present(memory, 2);
        order_poison_set(&memory->poison[0], 4);
        atomic_fetch_add(&memory->pages_present, 1);
        atomic_fetch_add(&memory->pages_poisoned, 1);
        cr_assert_str_eq(audit(memory), "poison;");
        (void) memory_free(memory);
}

TEST(audit, a_map_whose_head_was_overwritten) {
        struct memory *memory = new_memory();

        memory->map->n_pages++;
        cr_assert_str_eq(audit(memory), "map;");
        (void) memory_free(memory);
}

TEST(audit, a_memory_that_calls_itself_complete) {
        struct memory *memory = new_memory();

        order_complete_set(&memory->map->complete);
        cr_assert_str_eq(audit(memory), "complete;");
        (void) memory_free(memory);
}

/* ---- in flight ---- */

static struct slice *claim(struct memory *memory, uint64_t mask) {
        uint64_t claimed, index = 1;
        struct slice *slice;

        cr_assert_eq(slice_want(memory, index, mask, 0, NULL, &claimed), 0);
        cr_assert_eq(claimed, mask);
        HASH_FIND(hh, memory->shards[index].slices, &index, sizeof index, slice);
        cr_assert_not_null(slice);
        return slice;
}

TEST(audit, pages_that_are_being_installed_are_no_finding) {
        struct memory *memory = new_memory();

        (void) claim(memory, 0xff);
        cr_assert_str_eq(audit(memory), "");
        publish_failure(memory, 1, 0xff, -1);
        cr_assert_str_eq(audit(memory), "");
        (void) memory_free(memory);
}

TEST(audit, a_queued_page_without_a_read) {
        struct memory *memory = new_memory();
        struct slice *slice = claim(memory, 0xff);

        slice->installing = 0;
        slice->queued = 0xff;
        cr_assert_str_eq(audit(memory), "owner;");
        (void) memory_free(memory);
}

TEST(audit, a_page_in_two_states) {
        struct memory *memory = new_memory();
        struct slice *slice = claim(memory, 0xff);

        slice->fetching = 1;
        cr_assert_str_eq(audit(memory), "state;");
        (void) memory_free(memory);
}

TEST(audit, somebody_who_waits_for_what_nobody_does) {
        struct memory *memory = new_memory();
        struct slice *slice = claim(memory, 0xff);
        struct wait wait = { .memory = memory, .slice = 1, .mask = 0x100 };

        DL_APPEND(slice->waits, &wait);
        cr_assert_str_eq(audit(memory), "wait;");
        DL_DELETE(slice->waits, &wait);
        (void) memory_free(memory);
}
