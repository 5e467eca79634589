/* SPDX-License-Identifier: MIT */
#include "broker/trail.h"

#include <stddef.h>

#include "common/fence.h"

/* A memory has at most 2^34 pages, 2^28 slices. */
#define MEMORY_SHIFT 32u

static uint64_t make_key(unsigned memory, uint64_t slice) {
        return ((uint64_t) memory << MEMORY_SHIFT | slice) + 1;
}

static unsigned place_of(uint64_t key) {
        return (unsigned) (key * 0x9e3779b97f4a7c15ull >> 52);
}

static void set(atomic_uint_fast64_t *word, uint64_t value) {
        atomic_store_explicit(word, value, memory_order_relaxed);
}

static uint64_t get(const atomic_uint_fast64_t *word) {
        return atomic_load_explicit(word, memory_order_relaxed);
}

/* NULL: a slice that is being read has the place, and keeps it. */
static struct trail_place *claim(struct trail *trail, unsigned memory, uint64_t slice) {
        uint64_t key = make_key(memory, slice);
        struct trail_place *place = &trail->places[place_of(key)];

        if (get(&place->key) == key)
                return place;
        if (get(&place->reading) != 0)
                return NULL;
        set(&place->key, 0);
        fence_release();
        set(&place->failed, 0);
        set(&place->at_us, 0);
        atomic_store_explicit(&place->tries, 0, memory_order_relaxed);
        atomic_store_explicit(&place->error, 0, memory_order_relaxed);
        atomic_store_explicit(&place->key, key, memory_order_release);
        return place;
}

void trail_read_begins(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask) {
        struct trail_place *place = claim(trail, memory, slice);

        if (place)
                set(&place->reading, get(&place->reading) | mask);
}

void trail_read_ends(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask) {
        uint64_t key = make_key(memory, slice);
        struct trail_place *place = &trail->places[place_of(key)];

        if (get(&place->key) == key)
                set(&place->reading, get(&place->reading) & ~mask);
}

void trail_failed(struct trail *trail, unsigned memory, uint64_t slice, uint64_t mask, unsigned tries, int error,
                  uint64_t now_us) {
        struct trail_place *place = claim(trail, memory, slice);

        if (!place)
                return;
        set(&place->failed, get(&place->failed) | mask);
        set(&place->at_us, now_us);
        atomic_store_explicit(&place->tries, tries, memory_order_relaxed);
        atomic_store_explicit(&place->error, error, memory_order_relaxed);
}

static bool place_read(const struct trail_place *place, uint64_t *ret_key, struct trail_answer *ret) {
        uint64_t key = atomic_load_explicit(&place->key, memory_order_acquire);
        struct trail_answer answer = {
                .reading = get(&place->reading),
                .failed = get(&place->failed),
                .at_us = get(&place->at_us),
                .tries = atomic_load_explicit(&place->tries, memory_order_relaxed),
                .error = atomic_load_explicit(&place->error, memory_order_relaxed),
        };

        fence_acquire();
        if (key == 0 || get(&place->key) != key)
                return false;
        *ret_key = key;
        *ret = answer;
        return true;
}

struct trail_answer trail_look(const struct trail *trail, unsigned memory, uint64_t slice) {
        struct trail_answer answer;
        uint64_t wanted = make_key(memory, slice), key;

        if (!place_read(&trail->places[place_of(wanted)], &key, &answer) || key != wanted)
                return (struct trail_answer) {};
        return answer;
}

bool trail_get(const struct trail *trail, unsigned place, unsigned *ret_memory, uint64_t *ret_slice,
               struct trail_answer *ret) {
        struct trail_answer answer;
        uint64_t key;

        if (!place_read(&trail->places[place], &key, &answer))
                return false;
        *ret_memory = (unsigned) ((key - 1) >> MEMORY_SHIFT);
        *ret_slice = (key - 1) & ((1ull << MEMORY_SHIFT) - 1);
        *ret = answer;
        return true;
}
