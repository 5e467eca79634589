/* SPDX-License-Identifier: MIT */
/* The test's end of the stand-in: guest memory that comes when the test says so. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/integration/vhost-user-blk/stand-in.h"

struct pages_options {
        uint64_t size;
        bool present;       /* all of it from the start */
        uint32_t limit;     /* 0: none */
        uint32_t n_regions; /* 0: one, from 0 */
        struct stand_in_region regions[STAND_IN_REGIONS_MAX];
};

struct pages {
        char path[96];
        struct pages_options options;
        int listener;
        int socket;
        int memory;   /* memfd */
        char *source; /* what absent pages will hold */
        char *memfd;  /* what they hold now, as the VMM sees it */
        bool *present;
        unsigned n_submits;
};

void pages_open(struct pages *pages, const char *path, const struct pages_options *options);
/* Waits for the device to connect. */
void pages_accept(struct pages *pages);
void pages_close(struct pages *pages);
/* As if the broker died. */
void pages_hang_up(struct pages *pages);

/* The guest's (or its snapshot's) bytes: in the memfd where the page is present, else in the source. One page. */
char *pages_at(struct pages *pages, uint64_t gpa);

/* The next pb_submit() of the device that found an absent page; waits for it. */
struct stand_in_submit pages_expect(struct pages *pages);
bool pages_pending(struct pages *pages);

/* Makes pages of the range present as the broker would: whole pages of an OVERWRITE as zeros. */
void pages_bring(struct pages *pages, const struct pb_range *range);
/* Decides a request; result 0 brings all its pages. */
void pages_complete(struct pages *pages, const struct stand_in_submit *submit, int result);

bool pages_is_present(const struct pages *pages, uint64_t gpa);
