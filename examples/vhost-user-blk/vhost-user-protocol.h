/* SPDX-License-Identifier: MIT */
/* Messages of the vhost-user protocol, as far as this device speaks it (QEMU: docs/interop/vhost-user.rst). */
#pragma once

#include <assert.h>
#include <linux/vhost_types.h>
#include <stdint.h>

#define VU_FDS_MAX 8u
#define VU_REGIONS_MAX 8u
#define VU_CONFIG_MAX 256u

enum vu_request {
        VU_GET_FEATURES = 1,
        VU_SET_FEATURES = 2,
        VU_SET_OWNER = 3,
        VU_RESET_OWNER = 4,
        VU_SET_MEM_TABLE = 5,
        VU_SET_LOG_BASE = 6,
        VU_SET_LOG_FD = 7,
        VU_SET_VRING_NUM = 8,
        VU_SET_VRING_ADDR = 9,
        VU_SET_VRING_BASE = 10,
        VU_GET_VRING_BASE = 11,
        VU_SET_VRING_KICK = 12,
        VU_SET_VRING_CALL = 13,
        VU_SET_VRING_ERR = 14,
        VU_GET_PROTOCOL_FEATURES = 15,
        VU_SET_PROTOCOL_FEATURES = 16,
        VU_GET_QUEUE_NUM = 17,
        VU_SET_VRING_ENABLE = 18,
        VU_GET_CONFIG = 24,
        _VU_REQUEST_MAX,
};

enum vu_flags {
        VU_FLAG_VERSION = 1u,
        VU_FLAG_VERSION_MASK = 3u,
        VU_FLAG_REPLY = 1u << 2,
        VU_FLAG_NEED_REPLY = 1u << 3,
};

/* Feature bits of vhost among those of virtio. */
#define VU_F_LOG_ALL 26
#define VU_F_PROTOCOL_FEATURES 30

enum vu_protocol_feature {
        VU_PROTOCOL_F_MQ = 0,
        VU_PROTOCOL_F_LOG_SHMFD = 1,
        VU_PROTOCOL_F_REPLY_ACK = 3,
        VU_PROTOCOL_F_CONFIG = 9,
};

#define VU_VRING_INDEX_MASK 0xffu
#define VU_VRING_NO_FD 0x100u

struct vu_header {
        uint32_t request;
        uint32_t flags;
        uint32_t size; /* of the payload */
};

struct vu_region {
        uint64_t gpa;
        uint64_t size;
        uint64_t user;
        uint64_t offset;
};

struct vu_memory {
        uint32_t n_regions;
        uint32_t padding;
        struct vu_region regions[VU_REGIONS_MAX];
};

struct vu_log {
        uint64_t size;
        uint64_t offset;
};

struct vu_config {
        uint32_t offset;
        uint32_t size;
        uint32_t flags;
        uint8_t data[VU_CONFIG_MAX];
};

union vu_payload {
        uint64_t u64;
        struct vhost_vring_state state;
        struct vhost_vring_addr addr;
        struct vu_memory memory;
        struct vu_log log;
        struct vu_config config;
};

static_assert(sizeof(struct vu_header) == 12, "the protocol's");
static_assert(sizeof(struct vu_region) == 32, "the protocol's");
static_assert(sizeof(struct vhost_vring_state) == 8, "the protocol's");
static_assert(sizeof(struct vhost_vring_addr) == 40, "the protocol's");
static_assert(sizeof(struct vu_config) == 12 + VU_CONFIG_MAX, "the protocol's");
