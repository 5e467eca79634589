/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "client/client.h"
#include "client/map.h"
#include "common/cleanup.h"
#include "common/macro.h"

static_assert(PB_ROLE_DEVICE == (int) PB_AS_DEVICE && PB_ROLE_DEVICE_RO == (int) PB_AS_DEVICE_RO &&
              PB_ROLE_VMM == (int) PB_AS_VMM && PB_ROLE_OBSERVER == (int) PB_AS_OBSERVER,
              "the roles go through unchanged");

#define OPTIONS_SIZE_MAX 4096u
/* Without reconnect_us. */
#define OPTIONS_SIZE_MIN offsetof(struct pb_options, reconnect_us)

/* A caller that was built against a later header may pass more, as long as it asks for nothing that we do not know. */
static bool options_size_is_good(const struct pb_options *options) {
        const unsigned char *bytes = (const unsigned char *) options;

        if (options->size < OPTIONS_SIZE_MIN || options->size > OPTIONS_SIZE_MAX)
                return false;
        for (size_t i = sizeof *options; i < options->size; i++)
                if (bytes[i] != 0)
                        return false;
        return true;
}

int client_complete_options(struct pb_options *ret, const struct pb_options *given) {
        struct pb_options complete = {}, *options = &complete;

        if (!given || !options_size_is_good(given))
                return -EINVAL;
        memcpy(options, given, min_u64(given->size, sizeof *options));
        if (options->role < PB_ROLE_DEVICE || options->role > PB_ROLE_OBSERVER ||
            options->flags & ~(uint32_t) PB_OPT_COUNT_LOST_WAKES || options->timeout_us < 0 ||
            options->slice_us > CLIENT_SLICE_MAX_US || options->spin_us < -1 || options->reconnect_us < -1)
                return -EINVAL;
        if (options->name && strlen(options->name) >= PB_NAME_SIZE)
                return -EINVAL;
        *ret = *options;
        ret->slice_us = options->slice_us ?: CLIENT_SLICE_DEFAULT_US;
        ret->spin_us = options->spin_us ?: CLIENT_SPIN_DEFAULT_US;
        ret->reconnect_us = options->reconnect_us ?: CLIENT_RECONNECT_DEFAULT_US;
        return 0;
}

static void parts_init(struct client_parts *parts) {
        memset(parts, 0, sizeof *parts);
        parts->mapped = true;
        parts->socket = parts->doorbell = parts->completion = parts->uffd_device = parts->ring_fd = -1;
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                parts->memories[i].fd = -1;
}

static void unmap(const void *addr, uint64_t size) {
        if (addr)
                (void) munmap((void *) addr, size);
}

/* Mappings only: until the very end the descriptors belong to the link. */
static void parts_unmap(struct client_parts *parts) {
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++) {
                unmap(parts->memories[i].addr, parts->memories[i].size);
                unmap(parts->memories[i].map, parts->memories[i].map_size);
        }
        unmap(parts->ring, sizeof *parts->ring);
        unmap(parts->state, sizeof *parts->state);
}

static const uint32_t *get_bitmap(const struct pb_map_header *map, uint64_t offset) {
        return (const uint32_t *) (const void *) ((const char *) map + offset);
}

static int map_memory(struct client_parts *parts, unsigned index, const struct link *link) {
        const struct link_memory *from = &link->memories[index];
        struct client_memory *memory = &parts->memories[index];
        int protection = parts->options.role == PB_ROLE_DEVICE_RO ? PROT_READ : PROT_READ | PROT_WRITE;
        int r = 0;

        if (from->size == 0)
                return 0;
        memory->size = from->size;
        memory->held = true;
        memory->backing_size = from->backing_size;
        memory->map_size = from->map_size;
        memcpy(memory->name, from->name, sizeof memory->name);
        if (parts->options.role == PB_ROLE_OBSERVER)
                return 0;
        r = map_presence(from, link->epoch, &memory->map);
        if (r < 0)
                return r;
        memory->present = get_bitmap(memory->map, memory->map->present_offset);
        memory->poison = get_bitmap(memory->map, memory->map->poison_offset);
        memory->addr = map_untouched(from->fd, from->size, protection, &r);
        return memory->addr ? 0 : r;
}

static int map_session(struct client_parts *parts, const struct link *link) {
        int r = 0;

        if (link->session.ring_fd < 0)
                return 0;
        parts->ring = map_untouched(link->session.ring_fd, sizeof *parts->ring, PROT_READ | PROT_WRITE, &r);
        if (!parts->ring)
                return r;
        if (parts->ring->magic != PB_RING_MAGIC || parts->ring->version != 1 || parts->ring->n_slots != PB_RING_SLOTS)
                return -EPROTO;
        return map_state(link, &parts->state);
}

/* The rest (state and maps) stays with the link and is closed there: mapped is enough. */
static void borrow_fds(struct client_parts *parts, const struct link *link) {
        parts->socket = link->socket;
        parts->doorbell = link->session.doorbell_fd;
        parts->completion = link->session.completion_fd;
        parts->uffd_device = link->uffd_device_fd;
        parts->ring_fd = link->session.ring_fd;
        for (unsigned i = 0; i < parts->n_memories; i++)
                parts->memories[i].fd = link->memories[i].fd;
}

static void give_fds_away(struct link *link) {
        link->socket = link->uffd_device_fd = -1;
        link->session.doorbell_fd = link->session.completion_fd = link->session.ring_fd = -1;
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                link->memories[i].fd = -1;
}

static int map_all(struct client_parts *parts, const struct link *link) {
        int r = 0;

        parts->n_memories = link->n_memories;
        parts->n_regions = link->n_regions;
        memcpy(parts->regions, link->regions, sizeof parts->regions);
        for (unsigned i = 0; r >= 0 && i < link->n_memories; i++)
                r = map_memory(parts, i, link);
        return r < 0 ? r : map_session(parts, link);
}

int pb_connect(pb_client **ret, const char *address, const struct pb_options *options) {
        _cleanup_(parts_unmap) struct client_parts parts;
        _cleanup_(link_done) struct link link;
        int r;

        parts_init(&parts);
        link_init(&link);
        if (!ret)
                return -EINVAL;
        r = client_complete_options(&parts.options, options);
        if (r < 0)
                return r;
        r = link_open(&link, address,
                      &(struct link_options) { .role = parts.options.role,
                                               .compat = PB_FEATURE_HOTPLUG,
                                               .name = parts.options.name });
        if (r < 0)
                return r;
        r = map_all(&parts, &link);
        if (r < 0)
                return r;
        borrow_fds(&parts, &link);
        parts.address = address;
        parts.link = &link;
        r = client_new(ret, &parts);
        if (r < 0)
                return r;
        give_fds_away(&link);
        parts_init(&parts);
        return 0;
}
