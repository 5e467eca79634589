/* SPDX-License-Identifier: MIT */
/*
 * The values of options, for options.c. `option` is the option's name, for the message. All print to standard error what
 * is wrong, and return -EINVAL.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/macro.h"
#include "protocol/message.h"

/* Prints, and returns -EINVAL. */
int complain(const char *format, ...) PRINTF_LIKE(1, 2);
/* What is complained about from now on stands in this line of this file (not copied); 0: on the command line. */
void complain_about_line(const char *path, int number);

/* key: what of an option with several; NULL: the option has nothing else. */
int parse_size_of(const char *option, const char *key, const char *text, uint64_t *ret);
int parse_name(const char *option, const char *text, char ret[PB_NAME_SIZE]);
int parse_switch(const char *option, const char *text, bool *ret);
int parse_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* Seconds with a fraction, at least a millisecond. */
int parse_seconds(const char *option, const char *text, uint64_t *ret_us);

int parse_fault_around(const char *text, uint64_t *ret);
int parse_read_around(const char *text, unsigned *ret);

/* The next "key=value" of a comma-separated list, in place; a doubled comma is one comma of the value, as in QEMU. NULL
 * at the end. */
char *next_item(char **rest);
/* Each of the rest, until one is refused. */
typedef int option_item(void *data, const char *key, const char *value);
int parse_items(const char *option, char *rest, option_item *take, void *data);

/* A copy in place of what was there. */
int parse_text(char **where, const char *text);
/* The index of one of a few words. */
int parse_choice(const char *option, const char *text, const char *const names[], unsigned n, unsigned *ret);
