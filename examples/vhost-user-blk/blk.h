/* SPDX-License-Identifier: MIT */
/* virtio-blk requests. Each is a small state machine; a page that is not there yet holds up its own request only. */
#pragma once

#include <linux/virtio_blk.h>
#include <stdint.h>
#include <sys/queue.h>

#include "chain.h"
#include "disk.h"
#include "guest.h"
#include "virtqueue.h"

#define BLK_REQUESTS (QUEUES_MAX * QUEUE_REQUESTS)
#define BLK_BLOCK_SIZE 512u

/* What the request waits for. Each goes on to a later one or to its answer. */
enum blk_state {
        BLK_FREE,
        BLK_TABLE,  /* the indirect table's pages */
        BLK_OPEN,   /* the pages of everything that the guest wrote (header, data of a write) and of the status byte */
        BLK_FILL,   /* the pages of the buffers that a read fills */
        BLK_DISK,   /* the disk */
        BLK_STATUS, /* the status byte's page alone: the request has failed, only its answer is left */
};

struct blk_request {
        struct guest_wait wait;
        struct disk_io io;
        struct blk *blk;
        struct virtqueue *queue;
        enum blk_state state;
        uint16_t head;
        uint8_t status; /* VIRTIO_BLK_S_* */
        uint32_t type;  /* VIRTIO_BLK_T_*, once the header was read */
        struct chain chain;
        struct pb_range ranges[CHAIN_MAX + 1];
        unsigned n_ranges;
        struct iovec iov[CHAIN_MAX + GUEST_TABLE_MAX]; /* pieces: a buffer may lie across two regions */
        unsigned n_iov;
        LIST_ENTRY(blk_request) entry;
};

struct blk {
        struct device *device;
        struct blk_request *requests;
        LIST_HEAD(, blk_request) free;
        char serial[VIRTIO_BLK_ID_BYTES];
        uint64_t n_reads, n_writes, n_flushes, n_ids, n_failed;
};

int blk_init(struct blk *blk, struct device *device, const char *serial);
void blk_done(struct blk *blk);

uint64_t blk_features(const struct blk *blk);
void blk_get_config(const struct blk *blk, struct virtio_blk_config *ret);

/* Takes the request whose chain starts at `head`. It ends with virtqueue_push() or virtqueue_drop(). */
void blk_begin(struct blk *blk, struct virtqueue *queue, uint16_t head);

/* What a request's waits end in. */
void blk_on_pages(struct guest_wait *wait, int result);
void blk_on_disk(struct disk_io *io, int result);
