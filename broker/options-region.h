/* SPDX-License-Identifier: MIT */
#pragma once

struct numa_policy;
struct options;

/* For options.c: --region, and a value of its or of --memory's. */
int parse_region(struct options *options, char *text);
int parse_numa_policy(const char *option, const char *text, struct numa_policy *ret);
