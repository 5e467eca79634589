/* SPDX-License-Identifier: MIT */
/* A bus of a test's own: a dbus-daemon with the system bus's rules and our policy file. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

struct test_bus {
        char dir[64];
        char address[96];
        char option[128]; /* --bus=ADDRESS */
        pid_t pid;
};

/* Skips the test where there is no dbus-daemon. */
void test_bus_start(struct test_bus *ret);
void test_bus_stop(struct test_bus *bus);

/* Kills the daemon; test_bus_stop() is still due. */
void test_bus_kill(struct test_bus *bus);

/* A connection of our own; test_bus_disconnect() returns NULL. */
sd_bus *test_bus_connect(const struct test_bus *bus);
sd_bus *test_bus_disconnect(sd_bus *connection);

/* The same without assertions, for children. NULL, with a line, if it does not work. */
sd_bus *child_bus_connect(const struct test_bus *bus);

/* Waits until somebody has the name. */
bool test_bus_has(sd_bus *connection, const char *name);
