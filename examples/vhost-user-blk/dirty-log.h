/* SPDX-License-Identifier: MIT */
/*
 * Which guest pages the device wrote, for live migration by the VMM: a bitmap of 4 KiB guest pages that the front-end
 * shares. QEMU refuses to save a machine whose devices do not offer this, even where it is never used.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dirty_log {
        uint8_t *bits;
        size_t size; /* bytes */
        bool on;     /* VHOST_F_LOG_ALL is set: buffers are logged; rings have their own switch */
};

/* Maps the front-end's bitmap in place of the one before. Does not take over the descriptor. */
int dirty_log_set(struct dirty_log *log, int fd, uint64_t size, uint64_t offset);
void dirty_log_clear(struct dirty_log *log);

void dirty_log_mark(struct dirty_log *log, uint64_t gpa, uint64_t len);
