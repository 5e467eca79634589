/* SPDX-License-Identifier: MIT */
#pragma once

struct options;

/* --region; for options.c. */
int parse_region(struct options *options, char *text);
