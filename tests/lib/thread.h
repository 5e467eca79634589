/* SPDX-License-Identifier: MIT */
/* One thread of another process, stopped while the others run. Without Criterion: tests/systemd uses it too. */
#pragma once

#include <sys/types.h>

/* By the name that it has given itself; -1: there is none (yet). */
pid_t thread_find(pid_t pid, const char *name);

/*
 * Stops it wherever it is; it is ours then, and whoever kills its process waits until we have seen the end of it. Returns a
 * negative errno where ptrace() is not allowed.
 */
int thread_stop(pid_t tid);
void thread_continue(pid_t tid);

/* Waits until it has been killed with its process. */
int thread_wait_killed(pid_t tid);
