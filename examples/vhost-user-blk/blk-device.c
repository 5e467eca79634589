/* SPDX-License-Identifier: MIT */
/* What the guest's driver sees before its first request: features and configuration space. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define BIT(n) (1ull << (n))

static void request_init(struct blk *blk, struct blk_request *request) {
        request->blk = blk;
        request->wait.done = blk_on_pages;
        request->io.done = blk_on_disk;
        LIST_INSERT_HEAD(&blk->free, request, entry);
}

int blk_init(struct blk *blk, struct device *device, const char *serial) {
        if (strlen(serial) > sizeof blk->serial)
                return -ENAMETOOLONG;
        blk->device = device;
        /* Padded with zeros, not terminated: the specification's format. */
        memcpy(blk->serial, serial, strlen(serial));
        LIST_INIT(&blk->free);
        blk->requests = calloc(BLK_REQUESTS, sizeof *blk->requests);
        if (!blk->requests)
                return -ENOMEM;
        for (unsigned i = 0; i < BLK_REQUESTS; i++)
                request_init(blk, &blk->requests[i]);
        return 0;
}

void blk_done(struct blk *blk) {
        free(blk->requests);
        blk->requests = NULL;
}

uint64_t blk_features(const struct blk *blk) {
        return BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
               BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) |
               (blk->device->disk.readonly ? BIT(VIRTIO_BLK_F_RO) : 0);
}

void blk_get_config(const struct blk *blk, struct virtio_blk_config *ret) {
        *ret = (struct virtio_blk_config) {
                .capacity = htole64(blk->device->disk.size / BLK_BLOCK_SIZE),
                .seg_max = htole32(SEGMENTS_MAX),
                .blk_size = htole32(BLK_BLOCK_SIZE),
                .num_queues = htole16(QUEUES_MAX),
        };
}
