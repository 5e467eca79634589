/* SPDX-License-Identifier: MIT */
#include "virtqueue.h"

#include <endian.h>
#include <errno.h>
#include <sys/eventfd.h>

#include "common/macro.h"
#include "device.h"

static const char *const state_names[] = {
        [VIRTQUEUE_STOPPED] = "stopped",   [VIRTQUEUE_WAITING] = "waiting for its rings",
        [VIRTQUEUE_RUNNING] = "running",   [VIRTQUEUE_BROKEN] = "broken",
        [VIRTQUEUE_DRAINING] = "draining", [VIRTQUEUE_ABANDONED] = "abandoned",
};
static_assert(ELEMENTS(state_names) == _VIRTQUEUE_STATE_MAX, "a name for each state");

static void virtqueue_set_state(struct virtqueue *queue, enum virtqueue_state state) {
        log_debug("queue %u: %s -> %s", queue->index, state_names[queue->state], state_names[state]);
        queue->state = state;
}

/* ---- ring accesses: single, and ordered as the virtio specification says ---- */

/* Who sees the index sees the ring entries and descriptors before it. */
static uint16_t avail_index_load(const struct virtqueue *queue) {
        return le16toh(__atomic_load_n(&queue->avail->idx, __ATOMIC_ACQUIRE));
}

static uint16_t avail_entry_load(const struct virtqueue *queue, uint16_t i) {
        return le16toh(__atomic_load_n(&queue->avail->ring[i & (queue->size - 1)], __ATOMIC_RELAXED));
}

static void used_entry_store(struct virtqueue *queue, uint16_t i, uint32_t head, uint32_t len) {
        struct vring_used_elem *entry = &queue->used->ring[i & (queue->size - 1)];

        __atomic_store_n(&entry->id, htole32(head), __ATOMIC_RELAXED);
        __atomic_store_n(&entry->len, htole32(len), __ATOMIC_RELAXED);
}

static void used_index_store(struct virtqueue *queue) {
        __atomic_store_n(&queue->used->idx, htole16(queue->used_index), __ATOMIC_RELEASE);
}

/* Where the guest says at which used index it wants an interrupt: behind the available ring. */
static uint16_t used_event_load(const struct virtqueue *queue) {
        return le16toh(__atomic_load_n(&queue->avail->ring[queue->size], __ATOMIC_RELAXED));
}

/* Where the device says at which available index it wants a kick: behind the used ring. */
static void avail_event_store(struct virtqueue *queue, uint16_t value) {
        uint16_t *event = (uint16_t *) (void *) &queue->used->ring[queue->size];

        __atomic_store_n(event, htole16(value), __ATOMIC_RELAXED);
}

static void used_log(struct virtqueue *queue, uint64_t offset, uint64_t len) {
        if (queue->log_used)
                dirty_log_mark(&queue->device->dirty, queue->used_gpa + offset, len);
}

/* ---- taking requests ---- */

/* Returns 1 and a chain's head, 0 if there is none, or -EBADMSG. */
static int virtqueue_pop(struct virtqueue *queue, uint16_t *ret_head) {
        uint16_t index = avail_index_load(queue);
        uint16_t head;

        if (index == queue->last_avail)
                return 0;
        if ((uint16_t) (index - queue->last_avail) > queue->size) {
                virtqueue_break(queue, "the available index ran ahead by more than the ring's size");
                return -EBADMSG;
        }
        head = avail_entry_load(queue, queue->last_avail);
        if (head >= queue->size) {
                virtqueue_break(queue, "a descriptor index outside the ring");
                return -EBADMSG;
        }
        queue->last_avail++;
        *ret_head = head;
        return 1;
}

/* The ring looked empty. True if it still is after the guest was told to kick at the next entry. */
static bool virtqueue_rest(struct virtqueue *queue) {
        if (!device_has_feature(queue->device, VIRTIO_RING_F_EVENT_IDX))
                return true; /* the guest always kicks, and its kick was read before its index */
        avail_event_store(queue, queue->last_avail);
        used_log(queue, sizeof(struct vring_used) + queue->size * sizeof(struct vring_used_elem), sizeof(uint16_t));
        /* Of "guest: index, then look at the event" and "device: event, then look at the index" one must see the
         * other; without the fence both miss and the request lies there until the next kick. */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return avail_index_load(queue) == queue->last_avail;
}

static int virtqueue_on_work(sd_event_source *source UNUSED, void *userdata) {
        struct virtqueue *queue = userdata;
        unsigned budget = QUEUE_REQUESTS;
        uint16_t head;

        while (queue->state == VIRTQUEUE_RUNNING && queue->enabled) {
                int r;

                if (queue->in_flight == QUEUE_REQUESTS)
                        return 0; /* virtqueue_push() schedules */
                if (budget-- == 0) {
                        /* A guest that adds as fast as we take must not keep the other queues and the front-end out. */
                        virtqueue_schedule(queue);
                        return 0;
                }
                r = virtqueue_pop(queue, &head);
                if (r < 0 || (r == 0 && virtqueue_rest(queue)))
                        return 0;
                if (r == 0)
                        continue;
                queue->in_flight++;
                blk_begin(&queue->device->blk, queue, head);
        }
        return 0;
}

void virtqueue_schedule(struct virtqueue *queue) {
        (void) sd_event_source_set_enabled(queue->work_source, SD_EVENT_ONESHOT);
}

/* ---- answering ---- */

void virtqueue_drop(struct virtqueue *queue) {
        assert(queue->in_flight > 0);
        queue->in_flight--;
        virtqueue_schedule(queue);
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t len) {
        if (queue->state == VIRTQUEUE_RUNNING || queue->state == VIRTQUEUE_DRAINING) {
                uint16_t slot = queue->used_index & (queue->size - 1);

                used_entry_store(queue, queue->used_index, head, len);
                used_log(queue, sizeof(struct vring_used) + slot * sizeof(struct vring_used_elem),
                         sizeof(struct vring_used_elem));
                queue->used_index++;
                used_index_store(queue);
                used_log(queue, 0, sizeof(struct vring_used));
                queue->unsignalled = true;
        }
        virtqueue_drop(queue);
}

static bool virtqueue_wants_interrupt(struct virtqueue *queue) {
        uint16_t old = queue->signalled_used;
        bool valid = queue->signalled_valid;

        /* Pairs with the guest's fence between "set the event" and "look at the used index". */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (!device_has_feature(queue->device, VIRTIO_RING_F_EVENT_IDX))
                return !(le16toh(__atomic_load_n(&queue->avail->flags, __ATOMIC_RELAXED)) & VRING_AVAIL_F_NO_INTERRUPT);
        queue->signalled_used = queue->used_index;
        queue->signalled_valid = true;
        return !valid || vring_need_event(used_event_load(queue), queue->used_index, old);
}

void virtqueue_notify(struct virtqueue *queue) {
        if (!queue->unsignalled)
                return;
        queue->unsignalled = false;
        if (queue->state != VIRTQUEUE_RUNNING && queue->state != VIRTQUEUE_DRAINING)
                return;
        if (virtqueue_wants_interrupt(queue) && queue->call >= 0)
                (void) eventfd_write(queue->call, 1);
}

void virtqueue_break(struct virtqueue *queue, const char *reason) {
        if (queue->state != VIRTQUEUE_RUNNING && queue->state != VIRTQUEUE_WAITING)
                return;
        if (log_limit_pass(&queue->device->log_limit, &(uint32_t) { 0 }))
                log_error("queue %u stops: %s", queue->index, reason);
        virtqueue_set_state(queue, VIRTQUEUE_BROKEN);
        if (queue->err >= 0)
                (void) eventfd_write(queue->err, 1);
}

/* ---- start and stop ---- */

static void virtqueue_on_rings(struct guest_wait *wait, int result) {
        struct virtqueue *queue = CONTAINER_OF(wait, struct virtqueue, wait);

        queue->waiting = false;
        if (queue->state != VIRTQUEUE_WAITING)
                return; /* stopped meanwhile */
        if (result < 0) {
                virtqueue_break(queue, guest_explain(result));
                return;
        }
        /* The guest may have been restored from a snapshot: the used ring goes on where it stood. */
        queue->used_index = le16toh(__atomic_load_n(&queue->used->idx, __ATOMIC_RELAXED));
        queue->signalled_valid = false;
        queue->unsignalled = false;
        __atomic_store_n(&queue->used->flags, 0, __ATOMIC_RELAXED);
        used_log(queue, 0, sizeof(struct vring_used));
        virtqueue_set_state(queue, VIRTQUEUE_RUNNING);
        /* Do not wait for a kick: for what lay in the ring before, it came to our predecessor. */
        virtqueue_schedule(queue);
}

int virtqueue_init(struct virtqueue *queue, struct device *device, unsigned index) {
        int r;

        queue->device = device;
        queue->index = index;
        queue->kick = queue->call = queue->err = -1;
        queue->wait.done = virtqueue_on_rings;
        r = sd_event_add_defer(device->event, &queue->work_source, virtqueue_on_work, queue);
        return r < 0 ? r : sd_event_source_set_enabled(queue->work_source, SD_EVENT_OFF);
}

void virtqueue_done(struct virtqueue *queue) {
        (void) virtqueue_set_kick(queue, -1);
        (void) virtqueue_set_call(queue, -1);
        (void) virtqueue_set_err(queue, -1);
        queue->work_source = sd_event_source_disable_unref(queue->work_source);
}

int virtqueue_start(struct virtqueue *queue) {
        uint64_t desc_len = queue->size * sizeof(struct vring_desc);
        uint64_t avail_len = sizeof(struct vring_avail) + (queue->size + 1u) * sizeof(uint16_t);
        uint64_t used_len = sizeof(struct vring_used) + queue->size * sizeof(struct vring_used_elem) + sizeof(uint16_t);
        struct guest *guest = &queue->device->guest;
        int r;

        if (queue->state != VIRTQUEUE_STOPPED)
                return 0;
        if (queue->size == 0 || !queue->has_addresses)
                return -EINVAL;
        queue->desc = pb_translate(guest->client, queue->desc_gpa, desc_len);
        queue->avail = pb_translate(guest->client, queue->avail_gpa, avail_len);
        queue->used = pb_translate(guest->client, queue->used_gpa, used_len);
        if (!queue->desc || !queue->avail || !queue->used)
                return -EFAULT;
        queue->ranges[0] = (struct pb_range) { .gpa = queue->desc_gpa, .len = desc_len, .intent = PB_READ };
        queue->ranges[1] = (struct pb_range) { .gpa = queue->avail_gpa, .len = avail_len, .intent = PB_READ };
        queue->ranges[2] = (struct pb_range) { .gpa = queue->used_gpa, .len = used_len, .intent = PB_WRITE };
        virtqueue_set_state(queue, VIRTQUEUE_WAITING);
        /* Once is enough: the rings stay where they are, and a page that is present stays present. */
        r = guest_ensure(guest, &queue->wait, queue->ranges, ELEMENTS(queue->ranges));
        if (r == 0)
                queue->waiting = true;
        else
                virtqueue_on_rings(&queue->wait, r);
        return 0;
}

void virtqueue_stop(struct virtqueue *queue, bool abandon) {
        if (queue->state == VIRTQUEUE_STOPPED)
                return;
        /* What was broken stays silent: its used ring is not to be touched. */
        abandon = abandon || queue->state == VIRTQUEUE_BROKEN || queue->state == VIRTQUEUE_WAITING;
        virtqueue_set_state(queue, abandon ? VIRTQUEUE_ABANDONED : VIRTQUEUE_DRAINING);
}

bool virtqueue_is_idle(const struct virtqueue *queue) {
        return queue->in_flight == 0 && !queue->waiting;
}

uint16_t virtqueue_finish_stop(struct virtqueue *queue) {
        assert(virtqueue_is_idle(queue));
        virtqueue_notify(queue);
        (void) virtqueue_set_kick(queue, -1);
        if (queue->state != VIRTQUEUE_STOPPED)
                virtqueue_set_state(queue, VIRTQUEUE_STOPPED);
        return queue->last_avail;
}

void virtqueue_reset(struct virtqueue *queue) {
        (void) virtqueue_finish_stop(queue);
        (void) virtqueue_set_call(queue, -1);
        (void) virtqueue_set_err(queue, -1);
        queue->size = 0;
        queue->last_avail = 0;
        queue->has_addresses = false;
        queue->log_used = false;
        queue->enabled = false;
}
