/* SPDX-License-Identifier: MIT */
/* What a bin looks like, and the map as JSON. map-read.c fills it. */
#include "client/ctl/map-data.h"

#include <stdlib.h>

#include "client/ctl/decode.h"
#include "common/macro.h"

const char *const map_kind_words[MAP_KINDS] = {
        [MAP_PRESENT] = "present",   [MAP_ZERO] = "zero",     [MAP_IN_FLIGHT] = "in flight",
        [MAP_POISONED] = "poisoned", [MAP_ABSENT] = "absent", [MAP_EMPTY] = "absent, zero",
};

const char *const map_kind_keys[MAP_KINDS] = {
        [MAP_PRESENT] = "present",   [MAP_ZERO] = "zero",     [MAP_IN_FLIGHT] = "in_flight",
        [MAP_POISONED] = "poisoned", [MAP_ABSENT] = "absent", [MAP_EMPTY] = "absent_zero",
};

void map_done(struct map *map) {
        for (unsigned i = 0; i < map->n_strips; i++) {
                free(map->strips[i].name);
                free(map->strips[i].memory);
                free(map->strips[i].bins);
        }
        free(map->strips);
        free(map->title);
        *map = (struct map) {};
}

enum map_kind map_bin_kind(const struct map_bin *bin) {
        static const enum map_kind order[] = { MAP_PRESENT, MAP_ABSENT, MAP_ZERO, MAP_EMPTY };
        enum map_kind most = MAP_EMPTY;

        if (bin->pages[MAP_POISONED] > 0)
                return MAP_POISONED;
        if (bin->pages[MAP_IN_FLIGHT] > 0)
                return MAP_IN_FLIGHT;
        for (unsigned i = 0; i < ELEMENTS(order); i++)
                if (bin->pages[order[i]] > bin->pages[most])
                        most = order[i];
        return most;
}

static unsigned find_highest(const unsigned heights[MAP_KINDS]) {
        unsigned highest = 0;

        for (unsigned kind = 1; kind < MAP_KINDS; kind++)
                if (heights[kind] > heights[highest])
                        highest = kind;
        return highest;
}

/* One poisoned page among thousands is what somebody looks at the picture for. */
static unsigned least_height(unsigned kind, unsigned height) {
        unsigned least = kind == MAP_POISONED ? height / 2 : kind == MAP_IN_FLIGHT ? height / 4 : 1;

        return least > 0 ? least : 1;
}

void map_bin_heights(const struct map_bin *bin, unsigned height, unsigned ret[MAP_KINDS]) {
        uint64_t total = 0;
        unsigned sum = 0;

        for (unsigned kind = 0; kind < MAP_KINDS; kind++)
                total += bin->pages[kind];
        for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
                ret[kind] = total > 0 ? (unsigned) ((double) bin->pages[kind] / (double) total * height + 0.5) : 0;
                if (bin->pages[kind] > 0 && ret[kind] < least_height(kind, height))
                        ret[kind] = least_height(kind, height);
                sum += ret[kind];
        }
        /* What was rounded comes from, or goes to, who has most of it: there it is seen least. */
        for (; sum > height; sum--)
                ret[find_highest(ret)]--;
        if (total > 0)
                ret[find_highest(ret)] += height - sum;
}

static json_object *bin_to_json(const struct map_bin *bin) {
        json_object *object = json_new_object();

        for (unsigned kind = 0; kind < MAP_KINDS; kind++)
                json_set_u64(object, map_kind_keys[kind], bin->pages[kind]);
        return object;
}

/* An array for each kind: a name for every number would be most of the text. */
static json_object *bins_to_json(const struct map_strip *strip) {
        json_object *object = json_new_object();

        for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
                json_object *numbers = json_new_array();

                for (unsigned i = 0; i < strip->n_bins; i++)
                        if (json_object_array_add(numbers, json_object_new_uint64(strip->bins[i].pages[kind])) < 0)
                                abort();
                json_set(object, map_kind_keys[kind], numbers);
        }
        return object;
}

static json_object *strip_to_json(const struct map_strip *strip) {
        json_object *object = json_new_object();

        json_set_text(object, "memory", strip->memory);
        json_set_u64(object, "address", strip->address);
        json_set_u64(object, "first_page", strip->first_page);
        json_set_u64(object, "n_pages", strip->n_pages);
        json_set_u64(object, "pages_per_bin", strip->pages_per_bin);
        json_set(object, "bins", bins_to_json(strip));
        return object;
}

json_object *map_to_json(const struct map *map) {
        json_object *object = json_new_object(), *strips = json_new_array();

        json_set_text(object, "name", map->title);
        json_set(object, "pages", bin_to_json(&map->sum));
        for (unsigned i = 0; i < map->n_strips; i++)
                if (json_object_array_add(strips, strip_to_json(&map->strips[i])) < 0)
                        abort();
        json_set(object, "strips", strips);
        return object;
}
