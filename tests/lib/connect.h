/* SPDX-License-Identifier: MIT */
/* A linked client of a broker under test. */
#pragma once

#include <stdint.h>

#include "client/pagebroker.h"
#include "tests/lib/broker-fixture.h"
#include "tests/lib/image.h"

/* PB_OPT_COUNT_LOST_WAKES wants slices that are long beside the instant between two sleeps; but they are also how often a
 * waiter looks for the next broker. */
#define TEST_SLICE_US(broker) ((broker)->pid == (broker)->served ? 1000000u : 200000u)

/* Connects; fails the test with the reason if that does not work. Lost wake-ups are counted. */
pb_client *test_connect(const struct test_broker *broker, uint32_t role);

/* Disconnects; fails the test if a wake-up was lost. Returns NULL. */
pb_client *test_disconnect(pb_client *client);

/* For tests with hostile clients, who may delay others' wake-ups: does not look at them. */
uint64_t test_count_lost_wakes(pb_client *client);

/* pb_ensure() that must succeed; the reason in words if it does not. */
void test_ensure(pb_client *client, uint64_t gpa, size_t length, unsigned intent);

/* Ensures [gpa, gpa + length), inside one region, and compares every byte with the image (of that region's memory). */
void test_ensure_and_check(pb_client *client, const struct test_image *image, uint64_t gpa, size_t length);

/* The same for every page of every region; images[i] is memory i's. Asks for `step` bytes at a time. */
void test_check_everything(pb_client *client, const struct test_image *const images[], size_t step);
