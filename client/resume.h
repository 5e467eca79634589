/* SPDX-License-Identifier: MIT */
/*
 * When the broker has ended: connecting to the next one and putting its objects in place of the old ones' (PROTOCOL.md,
 * section "Restart"; tests/model/epoch.pml).
 *
 * The library has no thread. Whoever waits and sees the connection gone takes a step, and so does pb_reap(); one at a
 * time, the others sleep on `generation`. All of it may run in a signal handler that has interrupted anything else of
 * the library, so the lock is only tried, and signals are blocked while it is held.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"

/* So long a thread sleeps that waits for another one's step, or for the time of the next. */
#define RESUME_NAP_US 5000u

/* Has the connection been seen gone? */
bool client_is_lost(pb_client *client);

/* Somebody has seen it gone, in that generation. */
void client_note_lost(pb_client *client, uint32_t generation);

/* Looks at the control socket: one system call. False: lost or dead. */
bool client_look_after_broker(pb_client *client);

/*
 * One step. 0: there is a connection (again). -EAGAIN: not yet. -ECONNRESET: there will be none. Waits for an answer until
 * `until_us` at most; an answer that has begun to arrive is taken to its end. Async-signal-safe.
 */
int client_resume(pb_client *client, uint64_t until_us);

/*
 * No thread resumes the session meanwhile, and no signal handler of this one finds it half-way: for what a resume looks at
 * and changes too (the tables of memories and regions).
 */
struct resume_lock {
        sigset_t signals;
        int cancel;
};

void client_lock_resume(pb_client *client, struct resume_lock *ret);
void client_unlock_resume(pb_client *client, const struct resume_lock *lock);

/* ---- resume-switch.c, for resume.c ---- */

/* All descriptors of `link` have been checked. Takes what it needs out of it. On failure all is as before, or nobody
 * may use the session any more: -ENOMEM and -EMFILE are worth another try, anything else is not. */
int client_switch(pb_client *client, struct link *link);

/* The old completion socket polls readable for ever: not part of pb_get_fd() any more. */
void client_park_poll_fd(pb_client *client);
