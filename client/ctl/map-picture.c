/* SPDX-License-Identifier: MIT */
#include "client/ctl/map-picture.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/complain.h"
#include "client/ctl/text.h"

#define SWATCH 12
#define FONT_SIZE 12
#define TEXT_COLOR 0x24292f
#define BACKGROUND 0xffffff

const uint32_t picture_colors[MAP_KINDS] = {
        [MAP_PRESENT] = 0x2166ac,  [MAP_ZERO] = 0x92c5de,   [MAP_IN_FLIGHT] = 0xf6c343,
        [MAP_POISONED] = 0xb2182b, [MAP_ABSENT] = 0xbdbdbd, [MAP_EMPTY] = 0xececec,
};

static unsigned strip_rows(const struct map_strip *strip) {
        return (strip->n_bins + PICTURE_COLUMNS - 1) / PICTURE_COLUMNS;
}

static unsigned strip_top(const struct map *map, unsigned strip) {
        unsigned y = PICTURE_MARGIN + PICTURE_HEADER;

        for (unsigned i = 0; i < strip; i++)
                y += PICTURE_STRIP_HEADER + strip_rows(&map->strips[i]) * PICTURE_CELL + PICTURE_MARGIN;
        return y;
}

void picture_cell(const struct map *map, unsigned strip, unsigned bin, unsigned *ret_x, unsigned *ret_y) {
        *ret_x = PICTURE_MARGIN + PICTURE_LABEL + bin % PICTURE_COLUMNS * PICTURE_CELL;
        *ret_y = strip_top(map, strip) + PICTURE_STRIP_HEADER + bin / PICTURE_COLUMNS * PICTURE_CELL;
}

void picture_size(const struct map *map, unsigned *ret_width, unsigned *ret_height) {
        *ret_width = 2 * PICTURE_MARGIN + PICTURE_LABEL + PICTURE_COLUMNS * PICTURE_CELL;
        *ret_height = strip_top(map, map->n_strips);
}

static void set_color(cairo_t *cr, uint32_t color) {
        cairo_set_source_rgb(cr, (color >> 16 & 0xff) / 255.0, (color >> 8 & 0xff) / 255.0, (color & 0xff) / 255.0);
}

static void draw_text(cairo_t *cr, double x, double y, const char *text) {
        set_color(cr, TEXT_COLOR);
        cairo_move_to(cr, x, y);
        cairo_show_text(cr, text);
}

static void draw_rectangle(cairo_t *cr, unsigned x, unsigned y, unsigned width, unsigned height, uint32_t color) {
        set_color(cr, color);
        cairo_rectangle(cr, x, y, width, height);
        cairo_fill(cr);
}

static void draw_header(cairo_t *cr, const struct map *map) {
        unsigned x = PICTURE_MARGIN;
        char text[512];

        cairo_set_font_size(cr, FONT_SIZE + 4);
        (void) snprintf(text, sizeof text, "%s: %s, %s present", map->title, text_size(map->n_pages * 4096).s,
                        text_percent(map->sum.pages[MAP_PRESENT] + map->sum.pages[MAP_ZERO], map->n_pages).s);
        draw_text(cr, x, PICTURE_MARGIN + FONT_SIZE + 4, text);
        cairo_set_font_size(cr, FONT_SIZE);
        for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
                cairo_text_extents_t extents;

                draw_rectangle(cr, x, PICTURE_MARGIN + 32, SWATCH, SWATCH, picture_colors[kind]);
                (void) snprintf(text, sizeof text, "%s " COUNTED_FORMAT, map_kind_words[kind],
                                COUNTED(map->sum.pages[kind], "page"));
                draw_text(cr, x + SWATCH + 5, PICTURE_MARGIN + 32 + SWATCH - 2, text);
                cairo_text_extents(cr, text, &extents);
                x += SWATCH + 5 + (unsigned) extents.x_advance + 16;
        }
}

/* The kinds one over the other: what there is at the bottom, what is absent on top. */
static void draw_bin(cairo_t *cr, const struct map_bin *bin, unsigned x, unsigned y, unsigned width) {
        unsigned heights[MAP_KINDS], bottom = y + PICTURE_CELL;

        map_bin_heights(bin, PICTURE_CELL, heights);
        for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
                if (heights[kind] == 0)
                        continue;
                bottom -= heights[kind];
                draw_rectangle(cr, x, bottom, width, heights[kind], picture_colors[kind]);
        }
}

static void draw_row(cairo_t *cr, const struct map *map, unsigned strip_index, unsigned first) {
        const struct map_strip *strip = &map->strips[strip_index];
        unsigned x, y, end = first + PICTURE_COLUMNS < strip->n_bins ? first + PICTURE_COLUMNS : strip->n_bins;
        char text[32];

        picture_cell(map, strip_index, first, &x, &y);
        /* A label for every second row at most: the letters are higher than a cell. */
        if (first / PICTURE_COLUMNS % 2 == 0) {
                (void) snprintf(text, sizeof text, "0x%" PRIx64, strip->address + first * strip->pages_per_bin * 4096);
                draw_text(cr, PICTURE_MARGIN, y + PICTURE_CELL + 1, text);
        }
        /* Equal neighbours are one rectangle: an SVG of a guest that is all here is small. */
        for (unsigned bin = first; bin < end;) {
                unsigned heights[MAP_KINDS], next[MAP_KINDS], n = 1;

                map_bin_heights(&strip->bins[bin], PICTURE_CELL, heights);
                for (; bin + n < end; n++) {
                        map_bin_heights(&strip->bins[bin + n], PICTURE_CELL, next);
                        if (memcmp(heights, next, sizeof heights) != 0)
                                break;
                }
                picture_cell(map, strip_index, bin, &x, &y);
                draw_bin(cr, &strip->bins[bin], x, y, n * PICTURE_CELL);
                bin += n;
        }
}

static void draw(cairo_t *cr, const struct map *map) {
        set_color(cr, BACKGROUND);
        cairo_paint(cr);
        cairo_set_antialias(cr, CAIRO_ANTIALIAS_NONE);
        cairo_select_font_face(cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
        draw_header(cr, map);
        for (unsigned i = 0; i < map->n_strips; i++) {
                draw_text(cr, PICTURE_MARGIN, strip_top(map, i) + FONT_SIZE + 4, map->strips[i].name);
                for (unsigned first = 0; first < map->strips[i].n_bins; first += PICTURE_COLUMNS)
                        draw_row(cr, map, i, first);
        }
}

static cairo_status_t write_bytes(void *closure, const unsigned char *data, unsigned length) {
        return fwrite(data, 1, length, closure) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static cairo_status_t render(const struct map *map, enum picture_format format, FILE *file) {
        unsigned width, height;
        cairo_surface_t *surface;
        cairo_status_t status;
        cairo_t *cr;

        picture_size(map, &width, &height);
        if (format == PICTURE_SVG)
                surface = cairo_svg_surface_create_for_stream(write_bytes, file, width, height);
        else
                surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int) width, (int) height);
        cr = cairo_create(surface);
        draw(cr, map);
        status = cairo_status(cr);
        cairo_destroy(cr);
        if (status == CAIRO_STATUS_SUCCESS && format == PICTURE_PNG)
                status = cairo_surface_write_to_png_stream(surface, write_bytes, file);
        cairo_surface_finish(surface);
        if (status == CAIRO_STATUS_SUCCESS)
                status = cairo_surface_status(surface);
        cairo_surface_destroy(surface);
        return status;
}

int picture_write(const struct map *map, enum picture_format format, const char *path) {
        _cleanup_free_ char *temporary = NULL;
        bool is_stdout = strcmp(path, "-") == 0;
        cairo_status_t status;
        FILE *file = stdout;
        int r = 0;

        if (!is_stdout) {
                if (asprintf(&temporary, "%s.new", path) < 0)
                        return complain(STATUS_FAILURE, "out of memory");
                file = fopen(temporary, "we");
                if (!file)
                        return complain(STATUS_FAILURE, "%s: %s", path, strerror(errno));
        }
        status = render(map, format, file);
        if (!is_stdout) {
                r = fclose(file) == 0 ? 0 : -errno;
                if (r == 0 && status == CAIRO_STATUS_SUCCESS && rename(temporary, path) < 0)
                        r = -errno;
                if (r < 0 || status != CAIRO_STATUS_SUCCESS)
                        (void) unlink(temporary);
        }
        if (status != CAIRO_STATUS_SUCCESS)
                return complain(STATUS_FAILURE, "%s: %s", path, cairo_status_to_string(status));
        return r < 0 ? complain(STATUS_FAILURE, "%s: %s", path, strerror(-r)) : STATUS_OK;
}
