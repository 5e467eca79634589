/* SPDX-License-Identifier: MIT */
/* What is in a working set, for people and for programs: who wanted how much, when, where, and from which source. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/workingset.h"
#include "common/clock.h"

struct sum {
        uint64_t pages, first_us, last_us;
};

static void add(struct sum *sum, const struct pb_working_set_entry *entry) {
        if (sum->pages == 0)
                sum->first_us = entry->wanted_us;
        sum->last_us = entry->wanted_us;
        sum->pages += entry->n_pages;
}

struct sums {
        struct sum all, *memories, *clients;
};

static void sums_done(struct sums *sums) {
        free(sums->memories);
        free(sums->clients);
}
#define _cleanup_sums_ _cleanup_(sums_done)

static struct sums sum_up(const struct working_set_view *view) {
        struct sums sums = {
                .memories = calloc(view->header->n_memories + 1, sizeof *sums.memories),
                .clients = calloc(view->header->n_clients + 1, sizeof *sums.clients),
        };

        if (!sums.memories || !sums.clients)
                abort();
        for (uint64_t i = 0; i < view->header->n_entries; i++) {
                add(&sums.all, &view->entries[i]);
                add(&sums.memories[view->entries[i].memory], &view->entries[i]);
                add(&sums.clients[view->entries[i].client], &view->entries[i]);
        }
        return sums;
}

static const char *class_name(const struct pb_working_set_client *client) {
        return client->class == PB_WANTED_BY_FAULT ? "fault" : "device";
}

/* ---- for people ---- */

static void print_head(const struct pb_working_set_header *header, const struct sum *all) {
        time_t started = (time_t) (header->started_us / USEC_PER_SEC);
        char when[64] = "?";
        struct tm tm;

        if (localtime_r(&started, &tm))
                (void) strftime(when, sizeof when, "%F %T", &tm);
        (void) printf("vm           %s\n", text_safe(header->vm).s);
        (void) printf("recorded     %s, for %s\n", when, text_duration(header->duration_us).s);
        (void) printf("wanted       " COUNTED_FORMAT " of 4 KiB (%s), in %" PRIu64 " entr%s\n",
                      COUNTED(all->pages, "page"), text_size(all->pages * PB_PAGE_BYTES).s, header->n_entries,
                      header->n_entries == 1 ? "y" : "ies");
        if (all->pages > 0)
                (void) printf("from, to     %s, %s after the start\n", text_duration(all->first_us).s,
                              text_duration(all->last_us).s);
        if (header->pages_present > 0)
                (void) printf("not seen     " COUNTED_FORMAT " present at the start\n",
                              COUNTED(header->pages_present, "page"));
        if (header->flags & PB_WORKING_SET_FILL)
                (void) puts("not seen     what the background fill brought before it was wanted");
        if (header->flags & PB_WORKING_SET_RESUMED)
                (void) puts("not seen     what was wanted before the broker was restarted");
        if (header->flags & PB_WORKING_SET_TRUNCATED)
                (void) puts("not seen     what came when the file's tables were full");
}

static void print_memories(const struct working_set_view *view, const struct sums *sums) {
        struct table table = TABLE("MEMORY", ">SIZE", ">PAGES", ">PART", "FROM");

        for (uint32_t i = 0; i < view->header->n_memories; i++) {
                const struct pb_working_set_memory *memory = &view->memories[i];

                table_add(&table, "%s", text_safe(memory->name).s);
                table_add(&table, "%s", text_size(memory->size).s);
                table_add(&table, "%" PRIu64, sums->memories[i].pages);
                table_add(&table, "%s", text_percent(sums->memories[i].pages, memory->size / PB_PAGE_BYTES).s);
                table_add(&table, "%s", text_safe(memory->source).s);
        }
        (void) putchar('\n');
        table_print(&table);
        table_done(&table);
}

static void print_clients(const struct working_set_view *view, const struct sums *sums) {
        struct table table = TABLE("WANTED BY", "CLASS", ">PAGES", ">FIRST", ">LAST");

        for (uint32_t i = 0; i < view->header->n_clients; i++) {
                const struct pb_working_set_client *client = &view->clients[i];

                if (sums->clients[i].pages == 0)
                        continue;
                table_add(&table, "%s (%u)", text_safe(client->name).s, client->id);
                table_add(&table, "%s", class_name(client));
                table_add(&table, "%" PRIu64, sums->clients[i].pages);
                table_add(&table, "%s", text_duration(sums->clients[i].first_us).s);
                table_add(&table, "%s", text_duration(sums->clients[i].last_us).s);
        }
        if (table.n_cells > 0) {
                (void) putchar('\n');
                table_print(&table);
        }
        table_done(&table);
}

#define TIME_BINS 12u
#define BAR_WIDTH 40u

static void print_time(const struct working_set_view *view, const struct sum *all) {
        static const char bar[] = "########################################";
        struct table table = TABLE(">UNTIL", ">PAGES", "");
        uint64_t bins[TIME_BINS] = {}, most = 1, step = all->last_us / TIME_BINS + 1;

        for (uint64_t i = 0; i < view->header->n_entries; i++)
                bins[view->entries[i].wanted_us / step] += view->entries[i].n_pages;
        for (unsigned i = 0; i < TIME_BINS; i++)
                most = max_u64(most, bins[i]);
        for (unsigned i = 0; i < TIME_BINS; i++) {
                table_add(&table, "%s", text_duration((i + 1) * step).s);
                table_add(&table, "%" PRIu64, bins[i]);
                table_add(&table, "%.*s",
                          (int) ((double) bins[i] / (double) most * BAR_WIDTH + (bins[i] > 0 ? 0.999 : 0)), bar);
        }
        (void) putchar('\n');
        table_print(&table);
        table_done(&table);
}

#define MAP_COLUMNS 64u
#define MAP_ROWS 4u
#define MAP_BINS (MAP_COLUMNS * MAP_ROWS)

static char density(uint64_t wanted, uint64_t pages) {
        if (wanted == 0)
                return '.';
        return wanted * 100 < pages ? '-' : wanted * 10 < pages ? '+' : wanted * 2 < pages ? '*' : '#';
}

static void print_map(const struct working_set_view *view, unsigned index) {
        const struct pb_working_set_memory *memory = &view->memories[index];
        uint64_t n_pages = memory->size / PB_PAGE_BYTES, wanted[MAP_BINS] = {}, per_bin = 1;

        while (per_bin < n_pages / MAP_BINS + (n_pages % MAP_BINS > 0))
                per_bin *= 2;
        for (uint64_t i = 0; i < view->header->n_entries; i++) {
                const struct pb_working_set_entry *entry = &view->entries[i];
                uint64_t page = entry->first_page, end = page + entry->n_pages;

                while (entry->memory == index && page < end) {
                        uint64_t bin = page / per_bin, to = min_u64(end, (bin + 1) * per_bin);

                        wanted[bin] += to - page;
                        page = to;
                }
        }
        (void) printf("\n%s, a letter is %s: . nothing wanted, - less than a hundredth, + a tenth, * half, # more\n",
                      text_safe(memory->name).s, text_size(per_bin * PB_PAGE_BYTES).s);
        for (uint64_t bin = 0; bin * per_bin < n_pages; bin++) {
                if (bin % MAP_COLUMNS == 0)
                        (void) printf("%s0x%-12" PRIx64 "  ", bin > 0 ? "\n" : "",
                                      bin * per_bin * (uint64_t) PB_PAGE_BYTES);
                (void) putchar(density(wanted[bin], min_u64(per_bin, n_pages - bin * per_bin)));
        }
        (void) putchar('\n');
}

static void print_all(const struct working_set_view *view, const struct sums *sums) {
        print_head(view->header, &sums->all);
        print_memories(view, sums);
        print_clients(view, sums);
        if (sums->all.pages == 0)
                return;
        print_time(view, &sums->all);
        for (uint32_t i = 0; i < view->header->n_memories; i++)
                if (sums->memories[i].pages > 0)
                        print_map(view, i);
}

/* ---- for programs ---- */

static void append(json_object *array, json_object *object) {
        if (json_object_array_add(array, object) < 0)
                abort();
}

static json_object *memories_to_json(const struct working_set_view *view, const struct sums *sums) {
        json_object *array = json_new_array();

        for (uint32_t i = 0; i < view->header->n_memories; i++) {
                json_object *object = json_new_object();

                json_set_text(object, "name", text_safe(view->memories[i].name).s);
                json_set_u64(object, "size", view->memories[i].size);
                json_set_u64(object, "backing_size", view->memories[i].backing_size);
                json_set_text(object, "source", text_safe(view->memories[i].source).s);
                json_set_u64(object, "source_offset", view->memories[i].source_offset);
                json_set_u64(object, "source_size", view->memories[i].source_size);
                json_set_u64(object, "pages", sums->memories[i].pages);
                append(array, object);
        }
        return array;
}

static json_object *clients_to_json(const struct working_set_view *view, const struct sums *sums) {
        json_object *array = json_new_array();

        for (uint32_t i = 0; i < view->header->n_clients; i++) {
                json_object *object = json_new_object();

                json_set_text(object, "name", text_safe(view->clients[i].name).s);
                json_set_u64(object, "id", view->clients[i].id);
                json_set_text(object, "class", class_name(&view->clients[i]));
                json_set_u64(object, "pages", sums->clients[i].pages);
                json_set_u64(object, "first_us", sums->clients[i].first_us);
                json_set_u64(object, "last_us", sums->clients[i].last_us);
                append(array, object);
        }
        return array;
}

static json_object *entries_to_json(const struct working_set_view *view) {
        json_object *array = json_new_array();

        for (uint64_t i = 0; i < view->header->n_entries; i++) {
                json_object *object = json_new_object();

                json_set_u64(object, "wanted_us", view->entries[i].wanted_us);
                json_set_u64(object, "memory", view->entries[i].memory);
                json_set_u64(object, "first_page", view->entries[i].first_page);
                json_set_u64(object, "pages", view->entries[i].n_pages);
                json_set_u64(object, "client", view->entries[i].client);
                append(array, object);
        }
        return array;
}

static void print_json(const struct working_set_view *view, const struct sums *sums) {
        _cleanup_json_ json_object *object = json_new_object();
        const struct pb_working_set_header *header = view->header;

        json_set_text(object, "vm", text_safe(header->vm).s);
        json_set_u64(object, "started_at", header->started_us);
        json_set_u64(object, "duration_us", header->duration_us);
        json_set_u64(object, "pages", sums->all.pages);
        json_set_u64(object, "pages_present", header->pages_present);
        json_set_bool(object, "fill", header->flags & PB_WORKING_SET_FILL);
        json_set_bool(object, "resumed", header->flags & PB_WORKING_SET_RESUMED);
        json_set_bool(object, "truncated", header->flags & PB_WORKING_SET_TRUNCATED);
        json_set(object, "memories", memories_to_json(view, sums));
        json_set(object, "clients", clients_to_json(view, sums));
        json_set(object, "entries", entries_to_json(view));
        json_print(object);
}

int set_show(const struct ctl *ctl, const char *path) {
        _cleanup_set_file_ struct set_file file = {};
        _cleanup_sums_ struct sums sums = {};
        int status = set_file_read(path, &file);

        if (status != STATUS_OK)
                return status;
        sums = sum_up(&file.view);
        if (ctl->json)
                print_json(&file.view, &sums);
        else
                print_all(&file.view, &sums);
        return STATUS_OK;
}
