/* SPDX-License-Identifier: MIT */
/*
 * The broker on D-Bus: org.pagebroker1.*.xml beside this file says what is shown. On the control thread; it reads what
 * others publish and tells them nothing but commands, so that no call delays a fault. Every function accepts a broker
 * that is on no bus.
 */
#pragma once

#include <stdint.h>

struct broker;
struct connection;
struct memory;

/* Before any other thread: news are taken from then on. -ENOMEM, -EMFILE. */
int bus_new(struct broker *broker);

/* Connects; the rest happens in the event loop, so that a slow bus holds nobody up. Privileges are gone, the filter is
 * not loaded yet. Prints what is wrong, and fails if --bus names a bus that cannot be reached. */
int bus_start(struct broker *broker);
/* Off the bus: nobody flushes what a daemon does not read. */
void bus_stop(struct broker *broker);
/* When no other thread is left. */
void bus_free(struct broker *broker);

void bus_client_arrived(struct connection *connection);
void bus_client_changed(struct connection *connection); /* hung up, but still there */
void bus_client_left(struct connection *connection);    /* about to be freed */
void bus_memory_came(struct broker *broker, const struct memory *memory);
void bus_memory_leaves(struct broker *broker, const struct memory *memory); /* it and its regions are still there */
void bus_completed(struct broker *broker);
void bus_fill_changed(struct broker *broker); /* the pager carries it out soon */

/* From any thread; `broker` is one. */
void bus_post_poisoned(void *broker, const struct memory *memory, uint64_t slice, uint64_t mask, int error,
                       uint32_t left_out);
void bus_post_lost(void *broker, const struct memory *memory);
