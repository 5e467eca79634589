/* SPDX-License-Identifier: MIT */
/* The configuration file (pagebroker.conf(5)): the options of the command line as NAME = VALUE, in libconfuse's notation. */
#pragma once

#include <getopt.h>
#include <stdbool.h>

/* One assignment. */
struct options_file_line {
        int option;       /* `val` of its struct option */
        const char *name; /* the table's */
        bool has_argument;
        int number;       /* line, from 1 */
        char *value;      /* what is behind the equals sign */
};

struct options_file {
        struct options_file_line *lines;
        unsigned n_lines;
};

/*
 * Reads all assignments, in their order; `table` says which names there are (those with `val` in `excluded`, ended by 0,
 * are not). Prints to standard error what is wrong in which line, and returns -EINVAL or -ENOMEM. Not thread-safe.
 */
int options_file_read(struct options_file *ret, const char *path, const struct option *table, const int *excluded);
void options_file_done(struct options_file *file);
