/* SPDX-License-Identifier: MIT */
/* What a picture of guest memory is made of: strips (regions, or one memory), each divided into bins of pages. */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

#include "client/ctl/bus.h"
#include "client/ctl/view.h"

/* A page is in exactly one of these. In this order they are stacked in a picture, from below. */
enum map_kind {
        MAP_PRESENT,
        MAP_ZERO, /* present, without data in the source: zeros, unless written since */
        MAP_IN_FLIGHT,
        MAP_POISONED,
        MAP_ABSENT,
        MAP_EMPTY, /* absent, without data in the source: will cost no read */
        MAP_KINDS,
};

struct map_bin {
        uint64_t pages[MAP_KINDS];
};

struct map_strip {
        char *name; /* "0x100000000: 2.0 GiB of ram0" */
        char *memory;
        uint64_t address;    /* bytes: of a region the guest's; of a memory 0 */
        uint64_t first_page; /* in its memory */
        uint64_t n_pages;
        uint64_t pages_per_bin;
        unsigned n_bins;
        struct map_bin *bins;
};

struct map {
        char *title;
        struct map_strip *strips; /* ascending address */
        unsigned n_strips;
        struct map_bin sum;
        uint64_t n_pages;
};

/* For people, and for JSON. */
extern const char *const map_kind_words[MAP_KINDS];
extern const char *const map_kind_keys[MAP_KINDS];

void map_done(struct map *map);
#define _cleanup_map_ _cleanup_(map_done)

/*
 * Reads it: about `n_bins` bins in all, each of the same power of two of pages, so that strips can be compared.
 * `memory` NULL: the guest's regions. STATUS_OK or complained.
 */
int map_read(const struct broker *broker, const char *memory, uint64_t n_bins, struct map *ret);

/* What a bin is shown as where only one kind can be: what is wrong, then what happens, then the most. */
enum map_kind map_bin_kind(const struct map_bin *bin);

/* How much of a picture `height` high each kind takes in a bin. They add up to `height`; what there is of a kind is seen,
 * if only as 1, as far as there is room; what is poisoned or in flight as more. */
void map_bin_heights(const struct map_bin *bin, unsigned height, unsigned ret[MAP_KINDS]);

json_object *map_to_json(const struct map *map);
