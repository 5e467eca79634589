/* SPDX-License-Identifier: MIT */
/* Asks a broker for its map, a few thousand bins at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/map-data.h"
#include "client/ctl/text.h"

#define BINS_PER_CALL 4096 /* what GetMap takes */

/* Where the answer's columns belong. */
static const enum map_kind column_kinds[] = {
        MAP_PRESENT, MAP_ABSENT, MAP_IN_FLIGHT, MAP_POISONED, MAP_ZERO, MAP_EMPTY
};

static int complain_odd(const struct broker *broker) {
        return complain(STATUS_FAILURE, "map: the broker of %s answers something else", broker->name);
}

static struct map_strip *add_strip(struct map *map, const char *memory, uint64_t address, uint64_t first_page,
                                   uint64_t n_pages) {
        struct map_strip *strips = reallocarray(map->strips, map->n_strips + 1, sizeof *strips), *strip;

        if (!strips)
                abort();
        map->strips = strips;
        strip = &strips[map->n_strips++];
        *strip = (struct map_strip) {
                .memory = strdup(memory), .address = address, .first_page = first_page, .n_pages = n_pages
        };
        if (!strip->memory || asprintf(&strip->name, "0x%" PRIx64 ": %s of %s", address, text_size(n_pages * 4096).s,
                                       text_safe(memory).s) < 0)
                abort();
        map->n_pages += n_pages;
        return strip;
}

static const json_object *find_source(const struct view *view, const char *memory) {
        for (unsigned i = 0; i < json_length(view->sources); i++) {
                const json_object *source = json_object_array_get_idx(view->sources, i);

                if (strcmp(json_text(source, "memory"), memory) == 0)
                        return source;
        }
        return NULL;
}

static int make_strips(const struct view *view, const char *memory, struct map *map) {
        if (memory) {
                const json_object *source = find_source(view, memory);

                if (!source)
                        return complain(STATUS_FAILURE, "%s has no memory '%s'; see pagebrokerctl status", map->title,
                                        memory);
                (void) add_strip(map, memory, 0, 0, json_u64(source, "pages_total"));
                return STATUS_OK;
        }
        for (unsigned i = 0; i < json_length(view->regions); i++) {
                const json_object *region = json_object_array_get_idx(view->regions, i);

                (void) add_strip(map, json_text(region, "memory"), json_u64(region, "address"),
                                 json_u64(region, "offset") / 4096, json_u64(region, "pages_total"));
        }
        return STATUS_OK;
}

static void add_bins(struct map *map, struct map_strip *strip, const json_object *rows) {
        for (unsigned i = 0; i < json_length(rows); i++) {
                const json_object *row = json_object_array_get_idx(rows, i);
                struct map_bin *bin = &strip->bins[strip->n_bins++];

                for (unsigned k = 0; k < ELEMENTS(column_kinds) && k < json_length(row); k++) {
                        uint64_t n = json_object_get_uint64(json_object_array_get_idx(row, k));

                        bin->pages[column_kinds[k]] = n;
                        map->sum.pages[column_kinds[k]] += n;
                }
        }
}

static int read_strip(const struct broker *broker, const struct view *view, struct map *map, struct map_strip *strip) {
        const json_object *source = find_source(view, strip->memory);
        uint64_t n_bins = (strip->n_pages + strip->pages_per_bin - 1) / strip->pages_per_bin;
        int status;

        strip->bins = calloc(n_bins, sizeof *strip->bins);
        if (!strip->bins || !source)
                return complain_odd(broker);
        while (strip->n_bins < n_bins) {
                _cleanup_json_ json_object *reply = NULL;
                uint64_t done = strip->n_bins * strip->pages_per_bin, first = strip->first_page + done,
                         bins = min_u64((strip->n_pages - done) / strip->pages_per_bin, BINS_PER_CALL), pages;
                const json_object *rows;

                /* Whole bins, else the broker would choose another size; the last, shorter one by itself. */
                pages = bins > 0 ? bins * strip->pages_per_bin : strip->n_pages - done;
                bins = max_u64(bins, 1);
                status = broker_ask(broker, "map", "GetMap", &reply, "uttu", (uint32_t) json_u64(source, "index"),
                                    first, pages, (uint32_t) bins);
                if (status != STATUS_OK)
                        return status;
                rows = json_length(reply) == 2 ? json_object_array_get_idx(reply, 1) : NULL;
                if (json_length(rows) == 0 || json_length(rows) > bins)
                        return complain_odd(broker);
                if (bins > 1 && json_object_get_uint64(json_object_array_get_idx(reply, 0)) != strip->pages_per_bin)
                        return complain_odd(broker);
                add_bins(map, strip, rows);
        }
        return STATUS_OK;
}

static uint64_t choose_bin_size(uint64_t n_pages, uint64_t n_bins) {
        uint64_t size = 1;

        while (size * n_bins < n_pages)
                size *= 2;
        return size;
}

int map_read(const struct broker *broker, const char *memory, uint64_t n_bins, struct map *ret) {
        _cleanup_view_ struct view view = {};
        _cleanup_map_ struct map map = { .title = strdup(broker->name) };
        int status;

        if (!map.title)
                abort();
        status = view_read(broker, &view);
        if (status != STATUS_OK)
                return status;
        status = make_strips(&view, memory, &map);
        for (unsigned i = 0; i < map.n_strips && status == STATUS_OK; i++) {
                map.strips[i].pages_per_bin = choose_bin_size(map.n_pages, n_bins);
                status = read_strip(broker, &view, &map, &map.strips[i]);
        }
        if (status == STATUS_OK) {
                *ret = map;
                map = (struct map) {};
        }
        return status;
}
