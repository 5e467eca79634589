/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "client/client.h"
#include "common/macro.h"

const struct link_region *client_find_region(const pb_client *client, uint64_t gpa) {
        unsigned n = __atomic_load_n(&client->n_regions, __ATOMIC_ACQUIRE), low = 0, high = client->n_sorted;

        while (low < high) {
                unsigned middle = (low + high) / 2;
                const struct link_region *region = &client->regions[middle];

                if (gpa < region->gpa)
                        high = middle;
                else if (gpa - region->gpa >= __atomic_load_n(&region->size, __ATOMIC_ACQUIRE))
                        low = middle + 1;
                else
                        return region;
        }
        for (unsigned i = client->n_sorted; i < n; i++)
                if (gpa - client->regions[i].gpa < __atomic_load_n(&client->regions[i].size, __ATOMIC_ACQUIRE))
                        return &client->regions[i];
        return NULL;
}

bool client_covers(const pb_client *client, uint64_t gpa, uint64_t len) {
        while (len > 0) {
                const struct link_region *region = client_find_region(client, gpa);
                uint64_t here;

                if (!region)
                        return false;
                here = min_u64(len, region->size - (gpa - region->gpa));
                /* Regions end below 2^64 (link.c), so this cannot wrap. */
                gpa += here;
                len -= here;
        }
        return true;
}

bool pb_is_present_slow(const pb_client *client, uint64_t gpa, size_t len) {
        uint64_t left = len;

        if (client_check(client) < 0 || !client->prefix.n_views)
                return false;
        while (left > 0) {
                const struct link_region *region = client_find_region(client, gpa);
                uint64_t here, offset;

                if (!region)
                        return false;
                here = min_u64(left, region->size - (gpa - region->gpa));
                offset = region->offset + (gpa - region->gpa);
                if (!pb_pages_are_present(client->memories[region->memory].present, offset >> PB_PAGE_SHIFT,
                                          (offset + here - 1) >> PB_PAGE_SHIFT))
                        return false;
                gpa += here;
                left -= here;
        }
        return true;
}

int pb_get_region(pb_client *client, unsigned index, struct pb_region *ret) {
        const struct client_memory *memory;
        const struct link_region *region;
        int r;

        r = client_check(client);
        if (r < 0)
                return r;
        if (index >= __atomic_load_n(&client->n_regions, __ATOMIC_ACQUIRE))
                return failure_record(&client->failures, &(struct failure) { FAILURE_GET_REGION, -ENOENT });
        region = &client->regions[index];
        memory = &client->memories[region->memory];
        *ret = (struct pb_region) {
                .index = index,
                .memory = region->memory,
                .gpa = region->gpa,
                .size = region->size,
                .offset = region->offset,
                .page_size = memory->backing_size,
                .addr = memory->addr && region->size ? memory->addr + region->offset : NULL,
                .fd = memory->fd,
                .flags = (client->role == PB_ROLE_DEVICE_RO ? PB_REGION_READONLY : 0) | (region->size ? 0 : PB_REGION_GONE),
        };
        return 0;
}

void *pb_translate(pb_client *client, uint64_t gpa, size_t len) {
        const struct link_region *region;

        if (client_check(client) < 0)
                return NULL;
        region = client_find_region(client, gpa);
        if (!region || len > region->size - (gpa - region->gpa) || !client->memories[region->memory].addr)
                return NULL;
        return client->memories[region->memory].addr + region->offset + (gpa - region->gpa);
}
