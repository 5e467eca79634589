/* SPDX-License-Identifier: MIT */
/*
 * A file of a FUSE file system whose server does not answer: neither FLUSH (close() of any descriptor of it hangs), nor
 * WRITE (what writes dirty pages back hangs, for instance munmap() with the process's mm lock held).
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct stuck {
        char path[96];
        pid_t pid;
        uint32_t *held; /* requests that wait for an answer; shared with the server */
};

/* require_fuse() first. Mounted for this process and its later children. */
void stuck_start(struct stuck *stuck);

/* Another descriptor of the file. */
int stuck_open(const struct stuck *stuck);

/* `n` requests hang. */
void stuck_wait_held(const struct stuck *stuck, uint32_t n);

/* The server dies: everything that hung returns an error. */
void stuck_stop(struct stuck *stuck);
