/* SPDX-License-Identifier: MIT */
/* The map in a terminal: one character a bin, so that it can be copied into a bug report; colours only help. */
#include "client/ctl/map-terminal.h"

#include <assert.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/ctl/text.h"

#define COLUMNS_DEFAULT 80
#define ADDRESS_WIDTH 16
#define ROWS 16 /* of a large guest, over all regions */

static const char letters[MAP_KINDS] = {
        [MAP_PRESENT] = '#',  [MAP_ZERO] = 'z',   [MAP_IN_FLIGHT] = '>',
        [MAP_POISONED] = 'X', [MAP_ABSENT] = '.', [MAP_EMPTY] = '_',
};

/* SGR: foreground and background, legible on light and dark. */
static const char *const colors[MAP_KINDS] = {
        [MAP_PRESENT] = "97;44",  [MAP_ZERO] = "30;46", [MAP_IN_FLIGHT] = "30;43",
        [MAP_POISONED] = "97;41", [MAP_ABSENT] = "37",  [MAP_EMPTY] = "90",
};

static unsigned count_columns(void) {
        struct winsize size;
        unsigned columns = COLUMNS_DEFAULT, n = 16;

        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > ADDRESS_WIDTH + 16)
                columns = size.ws_col;
        /* A power of two: a row's addresses are round. */
        while (2 * n <= columns - ADDRESS_WIDTH)
                n *= 2;
        return n;
}

uint64_t map_terminal_bins(void) {
        return (uint64_t) count_columns() * ROWS;
}

static void print_kind(enum map_kind kind, enum map_kind before, bool is_colored) {
        assert(kind < MAP_KINDS);
        if (is_colored && kind != before)
                (void) printf("\033[0;%sm", colors[kind]);
        (void) putchar(letters[kind]);
}

static void print_row(const struct map_strip *strip, unsigned first, unsigned columns, bool is_colored) {
        enum map_kind before = MAP_KINDS;

        (void) printf("0x%-*" PRIx64 "  ", ADDRESS_WIDTH - 4, strip->address + first * strip->pages_per_bin * 4096);
        for (unsigned bin = first; bin < first + columns && bin < strip->n_bins; bin++) {
                enum map_kind kind = map_bin_kind(&strip->bins[bin]);

                print_kind(kind, before, is_colored);
                before = kind;
        }
        (void) fputs(is_colored ? "\033[0m\n" : "\n", stdout);
}

static void print_legend(const struct map *map, bool is_colored) {
        (void) putchar('\n');
        for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
                print_kind((enum map_kind) kind, MAP_KINDS, is_colored);
                (void) printf("%s %-12s  %" PRIu64 "\n", is_colored ? "\033[0m" : "", map_kind_words[kind],
                              map->sum.pages[kind]);
        }
        if (map->n_strips > 0)
                (void) printf(
                        "One letter is %s; it shows what is poisoned or in flight there, else what most of it is.\n",
                        text_size(map->strips[0].pages_per_bin * 4096).s);
}

void map_terminal_print(const struct map *map, bool is_colored) {
        unsigned columns = count_columns();

        for (unsigned i = 0; i < map->n_strips; i++) {
                const struct map_strip *strip = &map->strips[i];

                (void) printf("%s\n", strip->name);
                for (unsigned first = 0; first < strip->n_bins; first += columns)
                        print_row(strip, first, columns, is_colored);
        }
        print_legend(map, is_colored);
}
