/* SPDX-License-Identifier: MIT */
/*
 * Places where a test can let the broker die, as if by kill -9 at just that moment. Compiled to nothing except in the
 * test's own build of the same sources (tests/lib/kill-point.c).
 */
#pragma once

#ifdef PB_KILL_POINTS
void kill_point(const char *name);
#define KILL_POINT(name) kill_point(name)
#else
#define KILL_POINT(name) ((void) 0)
#endif
