/* SPDX-License-Identifier: MIT */
/* Open descriptors, counted before and after: a leak of one in a long-lived process is a bug like any other. */
#pragma once

#include <sys/types.h>

/* How many descriptors process `pid` has open. Negative errno if it is gone or not ours to look at. */
int test_descriptors_count(pid_t pid);

/* Prints what process `pid` has open. */
void test_descriptors_show(pid_t pid);

/* Remembers what this process has open; the end fails the test, and names them, if there is anything more. */
void test_descriptors_begin(void);
void test_descriptors_end(void);

/* How many more there are now; prints them. */
unsigned test_descriptors_leaked(void);
