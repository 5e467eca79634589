/* SPDX-License-Identifier: MIT */
/* The parts of one device, and what they share. */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "blk.h"
#include "common/log.h"
#include "dirty-log.h"
#include "disk.h"
#include "guest.h"
#include "vhost-user.h"
#include "virtqueue.h"

struct device {
        sd_event *event;
        struct guest guest;
        struct disk disk;
        struct blk blk;
        struct virtqueue queues[QUEUES_MAX];
        struct dirty_log dirty;
        struct front front;
        uint64_t features;          /* what the guest and its VMM accepted of the offered ones */
        struct log_limit log_limit; /* for lines that the guest can cause */
};

static inline bool device_has_feature(const struct device *device, unsigned bit) {
        return device->features >> bit & 1;
}
