/* SPDX-License-Identifier: MIT */
/* GPA and SIZE, or offsets of a memory, as words of the command line; and which pages of which memories they are. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/ctl/ctl.h"
#include "client/ctl/view.h"

struct range {
        uint64_t address, size; /* bytes: the guest's, or of ctl->memory; size 0: everything */
};

struct range_part {
        uint32_t memory; /* index */
        uint64_t first_page, n_pages;
};

#define RANGE_PARTS_MAX 64

/* 0 with the range, or complained. */
int range_parse(char **args, unsigned n, struct range *ret);

/* Cuts it at regions and whole pages. STATUS_OK with at least one part, or complained. */
int range_find(const struct ctl *ctl, const struct view *view, const struct range *range,
               struct range_part ret[RANGE_PARTS_MAX], unsigned *ret_n);
