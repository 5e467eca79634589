/* SPDX-License-Identifier: MIT */
#pragma once

struct options;

/* For options.c: --allow=ROLE:USER or ROLE:@GROUP. */
int parse_allow(struct options *options, char *text);
