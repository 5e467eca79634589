/* SPDX-License-Identifier: MIT */
#include "client/preload/mapping.h"

#include <assert.h>

static bool meets(const struct mapping *mapping, uintptr_t start, uintptr_t end) {
        return mapping->start < end && start < mapping->end;
}

/* The part of `mapping` inside [start, end), which meets it. */
static struct mapping cut(const struct mapping *mapping, uintptr_t start, uintptr_t end) {
        struct mapping part = *mapping;

        if (part.start < start) {
                part.offset += start - part.start;
                part.start = start;
        }
        if (part.end > end)
                part.end = end;
        return part;
}

bool mapping_has_room(const struct mapping_table *table) {
        return table->n + 2 <= MAPPINGS_MAX;
}

static void append(struct mapping_table *table, const struct mapping *mapping) {
        assert(table->n < MAPPINGS_MAX);
        table->mappings[table->n++] = *mapping;
}

void mapping_remove(struct mapping_table *table, uintptr_t start, uintptr_t end) {
        for (unsigned i = 0; i < table->n;) {
                struct mapping old = table->mappings[i];

                if (!meets(&old, start, end)) {
                        i++;
                        continue;
                }
                table->mappings[i] = table->mappings[--table->n];
                /* What is left of it does not meet the range any more, so going on over the table finds it in order. */
                if (old.start < start)
                        append(table,
                               &(struct mapping) { old.start, start, old.offset, old.memory, old.skipped_at_fork });
                if (old.end > end) {
                        struct mapping rest = cut(&old, end, old.end);

                        append(table, &rest);
                }
        }
}

void mapping_add(struct mapping_table *table, const struct mapping *mapping) {
        mapping_remove(table, mapping->start, mapping->end);
        append(table, mapping);
}

bool mapping_overlaps(const struct mapping_table *table, uintptr_t start, uintptr_t end) {
        for (unsigned i = 0; i < table->n; i++)
                if (meets(&table->mappings[i], start, end))
                        return true;
        return false;
}

bool mapping_set_skipped_at_fork(struct mapping_table *table, uintptr_t start, uintptr_t end, bool skipped) {
        for (unsigned i = 0; i < table->n; i++) {
                struct mapping part;

                if (!meets(&table->mappings[i], start, end) || table->mappings[i].skipped_at_fork == skipped)
                        continue;
                if (table->n + 2 > MAPPINGS_MAX)
                        return false;
                part = cut(&table->mappings[i], start, end);
                part.skipped_at_fork = skipped;
                mapping_add(table, &part);
                i = (unsigned) -1; /* the table has been rearranged; marked parts are passed over, so this ends */
        }
        return true;
}
