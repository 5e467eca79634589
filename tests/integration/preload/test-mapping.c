/* SPDX-License-Identifier: MIT */
/* The preload library's table of mappings, against a map of every page. */
#include <stdlib.h>
#include <string.h>

#include "client/preload/mapping.h"
#include "tests/lib/test.h"

#define PAGES 64u
#define NOWHERE (-1)

/* The model: for each page of a small address space, which byte of which memory it shows. */
struct model {
        int64_t shown[PAGES]; /* memory * 2^32 + offset, or NOWHERE */
        bool skipped[PAGES];
};

static void assert_same(const struct mapping_table *table, const struct model *model) {
        struct model seen = {};

        memset(seen.shown, 0xff, sizeof seen.shown);
        for (unsigned i = 0; i < table->n; i++) {
                const struct mapping *m = &table->mappings[i];

                cr_assert(m->start < m->end && m->start % 4096 == 0 && m->end % 4096 == 0 && m->end <= PAGES * 4096);
                for (uintptr_t at = m->start; at < m->end; at += 4096) {
                        cr_assert_eq(seen.shown[at / 4096], NOWHERE, "two mappings of one page");
                        seen.shown[at / 4096] = (int64_t) ((uint64_t) m->memory << 32 | (m->offset + at - m->start));
                        seen.skipped[at / 4096] = m->skipped_at_fork;
                }
        }
        for (unsigned page = 0; page < PAGES; page++) {
                cr_assert_eq(seen.shown[page], model->shown[page]);
                if (seen.shown[page] != NOWHERE)
                        cr_assert_eq(seen.skipped[page], model->skipped[page]);
                cr_assert_eq(mapping_overlaps(table, page * 4096, page * 4096 + 1), model->shown[page] != NOWHERE);
        }
}

static void model_set(struct model *model, unsigned first, unsigned last, int64_t value) {
        for (unsigned page = first; page < last; page++) {
                model->shown[page] = value == NOWHERE ? NOWHERE : value + (int64_t) (page - first) * 4096;
                model->skipped[page] = false;
        }
}

TEST(mapping, follows_random_map_unmap_and_fork_advice) {
        struct mapping_table table = {};
        struct model model;

        srandom(1);
        memset(&model, 0xff, sizeof model);
        memset(model.skipped, 0, sizeof model.skipped);
        for (unsigned step = 0; step < 20000; step++) {
                unsigned first = (unsigned) random() % PAGES, last = first + 1 + (unsigned) random() % (PAGES - first);
                unsigned memory = (unsigned) random() % 2;
                uint64_t offset = (uint64_t) (random() % 100) * 4096;
                bool skipped = random() % 2;

                switch (random() % 3) {
                case 0:
                        mapping_add(&table, &(struct mapping) { first * 4096, last * 4096, offset, memory, false });
                        model_set(&model, first, last, (int64_t) ((uint64_t) memory << 32 | offset));
                        break;
                case 1:
                        mapping_remove(&table, first * 4096, last * 4096);
                        model_set(&model, first, last, NOWHERE);
                        break;
                default:
                        cr_assert(mapping_set_skipped_at_fork(&table, first * 4096, last * 4096, skipped));
                        for (unsigned page = first; page < last; page++)
                                model.skipped[page] = skipped;
                        break;
                }
                assert_same(&table, &model);
                /* Never merged, so never more pieces than there are pages. */
                cr_assert_leq(table.n, PAGES);
        }
}

TEST(mapping, a_full_table_says_so) {
        struct mapping_table table = {};

        while (mapping_has_room(&table))
                mapping_add(&table, &(struct mapping) { table.n * 8192ul, table.n * 8192ul + 4096, 0, 0, false });
        cr_assert_geq(table.n, MAPPINGS_MAX - 1);
        mapping_remove(&table, 0, UINTPTR_MAX);
        cr_assert_eq(table.n, 0);
        cr_assert(mapping_has_room(&table));
}
