/* SPDX-License-Identifier: MIT */
/*
 * A device under test with its VMM, its guest (whose driver the test plays) and its disk. Memory comes from the
 * stand-in or from a real broker; the test reads and writes it through machine_at().
 */
#pragma once

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/integration/vhost-user-blk/pages.h"
#include "tests/integration/vhost-user-blk/vmm.h"
#include "tests/lib/test.h"

#define MACHINE_STAND_IN_PROGRAM TEST_BUILD_ROOT "/tests/integration/vhost-user-blk/vhost-user-blk-on-stand-in"

#define DISK_SIZE (4ull << 20)
#define SECTOR 512u
#define BIT(n) (1ull << (n))
#define FEATURES (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_BLK_F_FLUSH))

/* Where things lie in guest memory: each on a page of its own, so that each can be absent alone. */
#define MEMORY_SIZE (8ull << 20)
#define RINGS(queue) (0x10000ull + (queue) *0x10000ull)
#define HEADER(slot) (0x100000ull + (slot) *0x1000ull)
#define STATUS(slot) (0x200000ull + (slot) *0x1000ull)
#define TABLE(slot) (0x300000ull + (slot) *0x1000ull)
#define DATA(slot) (0x400000ull + (slot) *0x1000ull)
#define STATUS_NONE 0xee

struct queue {
        unsigned index;
        uint16_t size;
        uint64_t desc, avail, used;
        int kick, call, err;
        uint16_t next_desc;
        uint16_t avail_index; /* free-running */
        uint16_t used_index;
};

struct machine {
        char dir[64];
        char disk_path[96], socket_path[96], log_path[96];
        char *disk; /* its content, mapped */
        pid_t pid;
        int pidfd;
        int n_descriptors; /* open in the device without a front-end */
        int socket;
        int memory_fd;
        struct queue queues[2];

        struct pages *pages; /* NULL: a real broker */
        bool serve;          /* bring every page that is asked for, while waiting */
        pb_client *client;   /* the VMM's, of a real broker */
        char *image;         /* before there is a client: the snapshot */
};

struct machine_options {
        bool absent; /* nothing is there from the start, but comes when asked for */
        uint32_t limit;
        const char *args[4];    /* for the device */
        const char *pagebroker; /* of a real broker; NULL: a stand-in */
        uint64_t features;      /* default FEATURES */
        bool no_queues;         /* not even negotiated */
        uint32_t n_regions;
        struct stand_in_region regions[STAND_IN_REGIONS_MAX];
};

/* Starts a device, connects, and starts both queues. */
void machine_start(struct machine *machine, const struct machine_options *options);
#define MACHINE_START(machine, ...) machine_start((machine), &(struct machine_options) { __VA_ARGS__ })

/* The same in steps. With a real broker, whose snapshot is made in between, machine_run() is the second. */
void machine_prepare(struct machine *machine);
void machine_start_prepared(struct machine *machine, const struct machine_options *options);
void machine_run(struct machine *machine, const struct machine_options *options);

/* SIGTERM; fails the test unless the device ends well, having closed everything of its front-end. */
void machine_stop(struct machine *machine);
/* The device ends by itself. */
int machine_wait_end(struct machine *machine);

/* Connects (again), negotiates, hands over the memory. */
void machine_connect(struct machine *machine, uint64_t features);
void machine_disconnect(struct machine *machine);
bool machine_logged(const struct machine *machine, const char *text);
/* SIGUSR1, and a number of the line that it prints: "waited". */
long machine_statistic(struct machine *machine, const char *name);

/* Guest memory up to the end of the page. */
void *machine_at(struct machine *machine, uint64_t gpa);
void machine_fill(struct machine *machine, uint64_t gpa, uint64_t len, unsigned seed);
bool machine_holds(struct machine *machine, uint64_t gpa, uint64_t len, unsigned seed);
/* Byte i of a pattern. */
uint8_t pattern(unsigned seed, uint64_t i);
