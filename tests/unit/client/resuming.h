/* SPDX-License-Identifier: MIT */
/* One client of a broker that ends: what the tests of its going on, and of its not going on, begin and end with. */
#pragma once

#include "tests/unit/client/support.h"

extern struct fake *fake;
extern pb_client *client;

void start_with(const struct fake_options *fake_options, const struct pb_options *options);
void start(uint32_t role);
/* A restart is no reason to count a lost wake-up: fails the test if one was. */
void stop(void);

/* The broker dies, the next one answers. */
void restart(void);

void assert_ensured(uint64_t page);
