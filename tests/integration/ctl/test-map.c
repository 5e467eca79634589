/* SPDX-License-Identifier: MIT */
/* pagebrokerctl map: of page n the fake broker says, by n % 8: present, absent, in flight, poisoned, zero, absent zero,
 * present, present. */
#include <cairo.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/map-picture.h"
#include "tests/integration/ctl/support.h"

#define SAYS(text) cr_assert(strstr(ctl_out, (text)), "no '%s' in:\n%s", (text), ctl_out)

struct scene {
        struct test_bus bus;
        pid_t fake;
        char path[96], option[128];
};

static void begin(struct scene *scene, const char *kind) {
        test_bus_start(&scene->bus);
        scene->fake = fake_start(&scene->bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        (void) snprintf(scene->path, sizeof scene->path, "%s/picture", scene->bus.dir);
        (void) snprintf(scene->option, sizeof scene->option, "--%s=%s", kind, scene->path);
}

static void end(struct scene *scene) {
        (void) unlink(scene->path);
        fake_stop(scene->fake);
        test_bus_stop(&scene->bus);
}

TEST(map, json_has_every_page_once) {
        static const char *const kinds[] = { "present", "absent",      "in_flight", "poisoned",
                                             "zero",    "absent_zero", "present",   "present" };
        struct scene scene;
        json_object *map;
        char path[64];

        begin(&scene, "svg");
        CTL_ENDS(0, scene.bus.option, "map", "--json");
        map = ctl_json();
        cr_assert_eq(ctl_number(map, "pages/present"), 3 * 512);
        cr_assert_eq(ctl_number(map, "pages/poisoned"), 512);
        cr_assert_eq(ctl_number(map, "strips/0/pages_per_bin"), 1);
        cr_assert_eq(ctl_number(map, "strips/1/address"), 0x100000000);
        for (unsigned strip = 0; strip < 2; strip++)
                for (unsigned page = 0; page < 2048; page++) {
                        (void) snprintf(path, sizeof path, "strips/%u/bins/%s/%u", strip, kinds[page % 8], page);
                        cr_assert_eq(ctl_number(map, path), 1, "%s", path);
                }
        (void) json_object_put(map);
        end(&scene);
}

/* 80 columns, since it is no terminal: 64 letters a row, 16 rows: a letter is four pages. */
TEST(map, is_drawn_with_letters) {
        struct scene scene;

        begin(&scene, "svg");
        CTL_ENDS(0, scene.bus.option, "map");
        SAYS("0x0: 8.0 MiB of ram0\n"
             "0x0             X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#X#\n");
        SAYS("\n0x100700000     X#X#");
        SAYS("X poisoned      512\n");
        SAYS("_ absent, zero  512\n");
        SAYS("One letter is 16.0 KiB;");
        cr_assert(!strchr(ctl_out, '\033'), "%s", ctl_out);
        CTL_ENDS(0, scene.bus.option, "map", "--color=always", "--memory=ram0");
        SAYS("\n0x0             \033[0;97;41mX\033[0;97;44m#\033[0;97;41mX");
        CTL_ENDS(1, scene.bus.option, "map", "--memory=rom");
        cr_assert(strstr(ctl_err, "web1 has no memory 'rom'"), "%s", ctl_err);
        end(&scene);
}

static uint32_t pixel(cairo_surface_t *surface, unsigned x, unsigned y) {
        const unsigned char *row =
                cairo_image_surface_get_data(surface) + (size_t) y * (size_t) cairo_image_surface_get_stride(surface);
        uint32_t value;

        memcpy(&value, row + x * sizeof value, sizeof value);
        return value & 0xffffff;
}

/* Every pixel of every cell. */
TEST(map, a_png_has_the_colour_of_every_page) {
        static const enum map_kind kinds[] = { MAP_PRESENT, MAP_ABSENT, MAP_IN_FLIGHT, MAP_POISONED,
                                               MAP_ZERO,    MAP_EMPTY,  MAP_PRESENT,   MAP_PRESENT };
        struct map_strip strips[2] = { { .n_bins = 2048 }, { .n_bins = 2048 } };
        const struct map geometry = { .strips = strips, .n_strips = 2 };
        cairo_surface_t *surface;
        unsigned width, height, x, y;
        struct scene scene;

        begin(&scene, "png");
        CTL_ENDS(0, scene.bus.option, scene.option, "map");
        cr_assert_str_empty(ctl_out);
        surface = cairo_image_surface_create_from_png(scene.path);
        cr_assert_eq(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
        picture_size(&geometry, &width, &height);
        cr_assert_eq((unsigned) cairo_image_surface_get_width(surface), width);
        cr_assert_eq((unsigned) cairo_image_surface_get_height(surface), height);
        for (unsigned strip = 0; strip < 2; strip++)
                for (unsigned page = 0; page < 2048; page++) {
                        picture_cell(&geometry, strip, page, &x, &y);
                        for (unsigned i = 0; i < PICTURE_CELL * PICTURE_CELL; i++)
                                cr_assert_eq(pixel(surface, x + i % PICTURE_CELL, y + i / PICTURE_CELL),
                                             picture_colors[kinds[page % 8]], "strip %u, page %u", strip, page);
                }
        cairo_surface_destroy(surface);
        end(&scene);
}

TEST(map, an_svg_is_well_formed_and_small) {
        struct scene scene;
        char text[64] = {};
        FILE *file;

        begin(&scene, "svg");
        CTL_ENDS(0, scene.bus.option, scene.option, "map", "--memory=ram0");
        file = fopen(scene.path, "re");
        cr_assert(file && fread(text, 1, sizeof text - 1, file) == sizeof text - 1);
        cr_assert_eq(strncmp(text, "<?xml version=\"1.0\"", 19), 0, "%s", text);
        (void) fclose(file);
        end(&scene);
}

TEST(map, what_cannot_be_written_is_named) {
        struct scene scene;

        begin(&scene, "png");
        CTL_ENDS(1, scene.bus.option, "--png=/nonexistent/map.png", "map");
        cr_assert(strstr(ctl_err, "/nonexistent/map.png: No such file"), "%s", ctl_err);
        end(&scene);
}
