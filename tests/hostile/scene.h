/* SPDX-License-Identifier: MIT */
/*
 * What every test here has in common: a broker under its enforcing filter, and an honest client in another process that
 * asks for absent pages all the time, compares every byte, and measures how long each call takes. Whatever the hostile
 * one does, the honest one goes on, the broker stays up, and is as small afterwards as it was before.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/broker-fixture.h"
#include "tests/lib/image.h"

#ifndef TEST_SANITIZED
#define TEST_SANITIZED 0
#endif

/* How long one call of the honest client may take while somebody attacks. */
#define SCENE_DELAY_MAX_US 60000000ull

/* Of 128 MiB: enough for the honest client never to run out of absent pages in a test. */
#define SCENE_PAGES 32768u

/* The honest client walks through the pages in steps of this: the last one that it will ask for is SCENE_LAST_PAGE,
 * which a test may change. */
#define SCENE_STRIDE 12347u
#define SCENE_LAST_PAGE (SCENE_PAGES - SCENE_STRIDE)

struct honest;

struct scene {
        struct test_image image;
        struct test_broker broker;
        struct honest *honest; /* shared with its process */
        pid_t honest_pid;
        long rss_kib; /* the broker's own memory before anybody attacked, and so on */
        int n_descriptors;
        unsigned n_threads;
        uint64_t delay_max_us; /* default SCENE_DELAY_MAX_US */
};

/* --fill=off, one memory "ram0" of SCENE_PAGES pages, and `args`, ended by NULL. */
void scene_open(struct scene *scene, const char *const args[]);
#define SCENE_OPEN(scene, ...) scene_open((scene), (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })

/* A second memory, and so on: the caller's own command line; the honest client uses memory 0, which is `image`. */
void scene_open_with(struct scene *scene, const struct test_image *image, const char *const args[]);

/* The honest client gets more pages now, right ones, each within the bound. */
void scene_assert_served(struct scene *scene);

/* The log says so, now or soon. */
void scene_assert_logged(struct scene *scene, const char *text);

/* Hostile clients have gone: the broker's descriptors, threads and memory are where they were before the attack. */
void scene_assert_recovered(struct scene *scene);

/* The honest client was served to the end; recovered; the broker stops in order. */
void scene_close(struct scene *scene);
