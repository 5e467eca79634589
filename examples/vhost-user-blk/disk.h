/* SPDX-License-Identifier: MIT */
/* The file behind the disk: io_uring, or plain system calls where io_uring is forbidden. */
#pragma once

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

#define DISK_ENTRIES 512u /* one for each request that all queues together can have under way */

enum disk_op {
        DISK_READ,
        DISK_WRITE,
        DISK_WRITE_THROUGH, /* durable when done */
        DISK_FLUSH,
};

struct disk_io {
        void (*done)(struct disk_io *io, int result); /* 0 or a negative errno; perhaps inside disk_start() */
        enum disk_op op;
        struct iovec *iov; /* the caller's until done; changed */
        unsigned n_iov;
        uint64_t offset;
        uint64_t left; /* bytes */
};

struct disk {
        int fd;
        uint64_t size; /* bytes; a multiple of 512 */
        bool readonly;
        bool uring;
        struct io_uring ring;
        unsigned in_flight;
        bool queued;     /* started, but not submitted yet */
        sd_event *event; /* not owned */
        sd_event_source *source;
        sd_event_source *retry_source;
};

int disk_open(struct disk *disk, sd_event *event, const char *path, bool readonly, bool uring);
/* Waits until the kernel touches no guest memory any more. */
void disk_close(struct disk *disk);

void disk_start(struct disk *disk, struct disk_io *io);
/* Hands what disk_start() collected to the kernel: one system call for all of it. */
void disk_submit(struct disk *disk);
