/* SPDX-License-Identifier: MIT */
/* A split virtqueue, device side. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "chain.h"
#include "guest.h"

#define QUEUES_MAX 8u
#define QUEUE_REQUESTS 64u /* taken from one ring and not answered yet; the rest waits in the ring */

struct device;

/*
 *                 who moves it on                              what may be touched
 * STOPPED         virtqueue_start()                            nothing
 * WAITING         the rings' pages came (or failed)            nothing
 * RUNNING         virtqueue_stop(); a broken rule of the guest rings; new requests are taken
 * BROKEN          virtqueue_stop()                             nothing; requests under way are dropped when they finish
 * DRAINING        virtqueue_finish_stop() when idle            rings; no new requests
 * ABANDONED       virtqueue_finish_stop() when idle            nothing: the front-end is gone and counts what it saw
 */
enum virtqueue_state {
        VIRTQUEUE_STOPPED,
        VIRTQUEUE_WAITING,
        VIRTQUEUE_RUNNING,
        VIRTQUEUE_BROKEN,
        VIRTQUEUE_DRAINING,
        VIRTQUEUE_ABANDONED,
        _VIRTQUEUE_STATE_MAX,
};

struct virtqueue {
        struct device *device;
        unsigned index;
        enum virtqueue_state state;

        /* What the front-end set. */
        uint16_t size;
        uint64_t desc_gpa, avail_gpa, used_gpa;
        bool has_addresses;
        bool log_used; /* the used ring's changes go to the dirty log */
        bool enabled;
        int kick, call, err;

        /* The rings in this process; touched only once their pages are there. */
        struct guest_wait wait;
        struct pb_range ranges[3];
        bool waiting;
        const struct vring_desc *desc;
        struct vring_avail *avail;
        struct vring_used *used;

        uint16_t last_avail;     /* next entry of the available ring to take */
        uint16_t used_index;     /* next entry of the used ring to write */
        uint16_t signalled_used; /* used_index at the last look at whether to interrupt */
        bool signalled_valid;
        bool unsignalled; /* used entries since then */
        unsigned in_flight;

        sd_event_source *kick_source;
        sd_event_source *work_source;
};

int virtqueue_init(struct virtqueue *queue, struct device *device, unsigned index);
void virtqueue_done(struct virtqueue *queue);

/* What may be set only while stopped: -EBUSY. */
int virtqueue_set_size(struct virtqueue *queue, unsigned size);
int virtqueue_set_base(struct virtqueue *queue, unsigned base);
/* Running, it may only repeat the addresses (a front-end does so to switch the dirty log). */
int virtqueue_set_addresses(struct virtqueue *queue, uint64_t desc_gpa, uint64_t avail_gpa, uint64_t used_gpa,
                            bool log_used);

/* Take over the descriptor; -1: none. */
int virtqueue_set_kick(struct virtqueue *queue, int fd);
int virtqueue_set_call(struct virtqueue *queue, int fd);
int virtqueue_set_err(struct virtqueue *queue, int fd);

/* Asks for the rings' pages; running once they are there. */
int virtqueue_start(struct virtqueue *queue);
void virtqueue_enable(struct virtqueue *queue, bool on);

/* No new requests. Those under way are answered, or forgotten if `abandon`. */
void virtqueue_stop(struct virtqueue *queue, bool abandon);
bool virtqueue_is_idle(const struct virtqueue *queue);
/* Idle: stopped. Returns the index that the next start has to begin at. */
uint16_t virtqueue_finish_stop(struct virtqueue *queue);
/* Idle: as new, for the next front-end. */
void virtqueue_reset(struct virtqueue *queue);

/* Looks at the available ring from the event loop, soon. */
void virtqueue_schedule(struct virtqueue *queue);

/* Answers a request that virtqueue handed to blk_begin(). `len`: bytes written to its buffers. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t len);
/* It will never be answered. */
void virtqueue_drop(struct virtqueue *queue);

/* The guest broke a rule after which nothing in its ring can be trusted, or a page that it takes to answer is lost. */
void virtqueue_break(struct virtqueue *queue, const char *reason);

/* Interrupts the guest if something was answered and it wants to know. */
void virtqueue_notify(struct virtqueue *queue);
