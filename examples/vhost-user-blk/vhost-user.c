/* SPDX-License-Identifier: MIT */
/* What each message means. The socket is vhost-user-socket.c. */
#include "vhost-user.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "device.h"

#define BIT(n) (1ull << (n))
#define PROTOCOL_FEATURES                                                                      \
        (BIT(VU_PROTOCOL_F_MQ) | BIT(VU_PROTOCOL_F_LOG_SHMFD) | BIT(VU_PROTOCOL_F_REPLY_ACK) | \
         BIT(VU_PROTOCOL_F_CONFIG))

static uint64_t offered_features(const struct front *front) {
        return blk_features(&front->device->blk) | BIT(VU_F_PROTOCOL_FEATURES) | BIT(VU_F_LOG_ALL);
}

static struct virtqueue *queue_get(struct front *front, uint64_t index) {
        return index < QUEUES_MAX ? &front->device->queues[index] : NULL;
}

static int reply_u64(struct front *front, uint64_t value) {
        front->payload.u64 = value;
        return front_reply(front, sizeof value);
}

/* ---- features ---- */

static int handle_get_features(struct front *front) {
        return reply_u64(front, offered_features(front));
}

static int handle_set_features(struct front *front) {
        struct device *device = front->device;

        if (front->payload.u64 & ~offered_features(front))
                return -EINVAL;
        device->features = front->payload.u64;
        device->dirty.on = device_has_feature(device, VU_F_LOG_ALL);
        return 0;
}

static int handle_get_protocol_features(struct front *front) {
        return reply_u64(front, PROTOCOL_FEATURES);
}

static int handle_set_protocol_features(struct front *front) {
        if (front->payload.u64 & ~PROTOCOL_FEATURES)
                return -EINVAL;
        front->protocol_features = front->payload.u64;
        return 0;
}

static int handle_get_queue_num(struct front *front) {
        return reply_u64(front, QUEUES_MAX);
}

static int handle_nothing(struct front *front UNUSED) {
        return 0;
}

static int handle_get_config(struct front *front) {
        struct vu_config *config = &front->payload.config;
        struct virtio_blk_config ours;
        uint8_t space[VU_CONFIG_MAX] = {};
        uint32_t n = config->size;

        blk_get_config(&front->device->blk, &ours);
        memcpy(space, &ours, sizeof ours);
        if (!range_fits(config->offset, n, sizeof space) || front->header.size != offsetof(struct vu_config, data) + n)
                return front_reply(front, 0); /* the protocol's way to say no */
        memcpy(config->data, &space[config->offset], n);
        return front_reply(front, offsetof(struct vu_config, data) + n);
}

/* ---- memory ---- */

static int handle_set_mem_table(struct front *front) {
        const struct vu_memory *memory = &front->payload.memory;
        struct guest_mapping table[VU_REGIONS_MAX];
        unsigned n = memory->n_regions;

        if (n > VU_REGIONS_MAX || n != front->n_fds ||
            front->header.size != offsetof(struct vu_memory, regions) + n * sizeof memory->regions[0])
                return -EINVAL;
        for (unsigned i = 0; i < n; i++)
                table[i] = (struct guest_mapping) {
                        .gpa = memory->regions[i].gpa,
                        .size = memory->regions[i].size,
                        .user = memory->regions[i].user,
                        .offset = memory->regions[i].offset,
                };
        return guest_set_table(&front->device->guest, table, front->fds, n);
}

static int handle_set_log_base(struct front *front) {
        int r;

        if (front->n_fds != 1)
                return -EINVAL;
        r = dirty_log_set(&front->device->dirty, front->fds[0], front->payload.log.size, front->payload.log.offset);
        return r < 0 ? r : reply_u64(front, 0);
}

/* ---- queues ---- */

static int handle_set_vring_num(struct front *front) {
        struct virtqueue *queue = queue_get(front, front->payload.state.index);

        return queue ? virtqueue_set_size(queue, front->payload.state.num) : -EINVAL;
}

static int handle_set_vring_base(struct front *front) {
        struct virtqueue *queue = queue_get(front, front->payload.state.index);

        return queue ? virtqueue_set_base(queue, front->payload.state.num) : -EINVAL;
}

/* QEMU names rings by its own virtual addresses; buffers in them are guest-physical. */
static int handle_set_vring_addr(struct front *front) {
        const struct vhost_vring_addr *addr = &front->payload.addr;
        struct virtqueue *queue = queue_get(front, addr->index);
        const struct guest *guest = &front->device->guest;
        uint64_t desc, avail, used;

        if (!queue)
                return -EINVAL;
        /* Their lengths are checked when the queue starts, in the broker's regions. */
        if (guest_user_to_gpa(guest, addr->desc_user_addr, 1, &desc) < 0 ||
            guest_user_to_gpa(guest, addr->avail_user_addr, 1, &avail) < 0 ||
            guest_user_to_gpa(guest, addr->used_user_addr, 1, &used) < 0)
                return -EFAULT;
        return virtqueue_set_addresses(queue, desc, avail, used, addr->flags & BIT(VHOST_VRING_F_LOG));
}

static int handle_get_vring_base(struct front *front) {
        struct virtqueue *queue = queue_get(front, front->payload.state.index);

        if (!queue)
                return -EINVAL;
        virtqueue_stop(queue, false);
        front->draining = (int) queue->index; /* front_turn() replies */
        return 0;
}

/* Returns the queue and takes the descriptor (-1: none) of a SET_VRING_KICK, CALL or ERR. */
static struct virtqueue *vring_file(struct front *front, int *ret_fd) {
        uint64_t value = front->payload.u64;
        struct virtqueue *queue = queue_get(front, value & VU_VRING_INDEX_MASK);

        if (!queue || front->n_fds != !(value & VU_VRING_NO_FD))
                return NULL;
        *ret_fd = front->n_fds > 0 ? fd_take(&front->fds[0]) : -1;
        front->n_fds = 0;
        return queue;
}

static int handle_set_vring_kick(struct front *front) {
        struct virtqueue *queue;
        int fd, r;

        queue = vring_file(front, &fd);
        if (!queue)
                return -EINVAL;
        if (fd < 0)
                return -EOPNOTSUPP; /* a queue that has to be polled */
        r = virtqueue_set_kick(queue, fd);
        if (r < 0)
                return r;
        if (!device_has_feature(front->device, VU_F_PROTOCOL_FEATURES))
                virtqueue_enable(queue, true); /* there is no message for it then */
        return virtqueue_start(queue);
}

static int handle_set_vring_call(struct front *front) {
        struct virtqueue *queue;
        int fd;

        queue = vring_file(front, &fd);
        return queue ? virtqueue_set_call(queue, fd) : -EINVAL;
}

static int handle_set_vring_err(struct front *front) {
        struct virtqueue *queue;
        int fd;

        queue = vring_file(front, &fd);
        return queue ? virtqueue_set_err(queue, fd) : -EINVAL;
}

static int handle_set_vring_enable(struct front *front) {
        struct virtqueue *queue = queue_get(front, front->payload.state.index);

        if (!queue || front->payload.state.num > 1)
                return -EINVAL;
        virtqueue_enable(queue, front->payload.state.num);
        return 0;
}

/* ---- dispatch ---- */

#define ANY_SIZE UINT32_MAX

static const struct handler {
        const char *name;
        int (*handle)(struct front *front);
        uint32_t size; /* of the payload */
        bool replies;  /* by itself when it succeeds */
} handlers[_VU_REQUEST_MAX] = {
        [VU_GET_FEATURES] = { "GET_FEATURES", handle_get_features, 0, true },
        [VU_SET_FEATURES] = { "SET_FEATURES", handle_set_features, 8, false },
        [VU_SET_OWNER] = { "SET_OWNER", handle_nothing, 0, false },
        [VU_RESET_OWNER] = { "RESET_OWNER", handle_nothing, 0, false },
        [VU_SET_MEM_TABLE] = { "SET_MEM_TABLE", handle_set_mem_table, ANY_SIZE, false },
        [VU_SET_LOG_BASE] = { "SET_LOG_BASE", handle_set_log_base, sizeof(struct vu_log), true },
        [VU_SET_LOG_FD] = { "SET_LOG_FD", handle_nothing, ANY_SIZE, false },
        [VU_SET_VRING_NUM] = { "SET_VRING_NUM", handle_set_vring_num, 8, false },
        [VU_SET_VRING_ADDR] = { "SET_VRING_ADDR", handle_set_vring_addr, sizeof(struct vhost_vring_addr), false },
        [VU_SET_VRING_BASE] = { "SET_VRING_BASE", handle_set_vring_base, 8, false },
        [VU_GET_VRING_BASE] = { "GET_VRING_BASE", handle_get_vring_base, 8, true },
        [VU_SET_VRING_KICK] = { "SET_VRING_KICK", handle_set_vring_kick, 8, false },
        [VU_SET_VRING_CALL] = { "SET_VRING_CALL", handle_set_vring_call, 8, false },
        [VU_SET_VRING_ERR] = { "SET_VRING_ERR", handle_set_vring_err, 8, false },
        [VU_GET_PROTOCOL_FEATURES] = { "GET_PROTOCOL_FEATURES", handle_get_protocol_features, 0, true },
        [VU_SET_PROTOCOL_FEATURES] = { "SET_PROTOCOL_FEATURES", handle_set_protocol_features, 8, false },
        [VU_GET_QUEUE_NUM] = { "GET_QUEUE_NUM", handle_get_queue_num, 0, true },
        [VU_SET_VRING_ENABLE] = { "SET_VRING_ENABLE", handle_set_vring_enable, 8, false },
        [VU_GET_CONFIG] = { "GET_CONFIG", handle_get_config, ANY_SIZE, true },
};

/* Acts on the message in front->header, payload and fds. An error ends the connection. */
int front_handle(struct front *front) {
        uint32_t request = front->header.request;
        const struct handler *handler =
                request < _VU_REQUEST_MAX && handlers[request].handle ? &handlers[request] : NULL;
        bool acknowledge =
                front->header.flags & VU_FLAG_NEED_REPLY && front->protocol_features & BIT(VU_PROTOCOL_F_REPLY_ACK);
        int r = -EOPNOTSUPP;

        log_debug("front-end: %s (%u)", handler ? handler->name : "unknown request", request);
        if (handler)
                r = handler->size == ANY_SIZE || handler->size == front->header.size ? handler->handle(front)
                                                                                     : -EBADMSG;
        if (r < 0 && log_limit_pass(&front->device->log_limit, &(uint32_t) { 0 }))
                log_error("front-end: %s (%u) refused: %s", handler ? handler->name : "unknown request", request,
                          strerror(-r));
        if (handler && handler->replies)
                return r;
        return acknowledge ? reply_u64(front, r < 0) : r;
}
