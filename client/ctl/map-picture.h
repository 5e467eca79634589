/* SPDX-License-Identifier: MIT */
/* The map as SVG or PNG. The geometry is here for the tests, which look at the pixels. */
#pragma once

#include "client/ctl/map-data.h"

#define PICTURE_COLUMNS 128 /* bins in a row */
#define PICTURE_BINS 8192   /* in all: no picture is higher than it is wide, whatever the guest's size */
#define PICTURE_CELL 8      /* pixels, square */
#define PICTURE_MARGIN 16
#define PICTURE_LABEL 112 /* left of the cells: the address of the row */
#define PICTURE_HEADER 64 /* title and legend */
#define PICTURE_STRIP_HEADER 24

/* 0xRRGGBB; not by red and green alone. */
extern const uint32_t picture_colors[MAP_KINDS];

enum picture_format {
        PICTURE_SVG,
        PICTURE_PNG,
};

/* Writes the file anew, "-" being standard output. STATUS_OK or complained; no half-written file is left. */
int picture_write(const struct map *map, enum picture_format format, const char *path);

/* Left upper corner of a bin's cell. */
void picture_cell(const struct map *map, unsigned strip, unsigned bin, unsigned *ret_x, unsigned *ret_y);
void picture_size(const struct map *map, unsigned *ret_width, unsigned *ret_height);
