/* SPDX-License-Identifier: MIT */
/*
 * pb_attach_vmm(): this process's mappings of guest memory go under userfaultfd.
 *
 * One descriptor a slice: it serialises the faults on it, so several scale where one does not. The descriptors that the
 * broker got stay open here until the process ends, also past pb_disconnect(): the last close of a userfaultfd lets the
 * threads that wait on it go, and they would find zeros.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "client/peer.h"
#include "common/cleanup.h"
#include "common/macro.h"

#define SHARDS_MAX 64u

/* A piece of one memory, in bytes, on whole backing pages. */
struct slice {
        uint32_t memory;
        uint64_t offset;
        uint64_t length;
};

/* The peers of this call, so that a failure can take them back. */
struct attached {
        unsigned n;
        struct {
                int uffd;
                uint32_t id;
        } peers[PB_REGIONS_MAX * SHARDS_MAX];
};

/* Regions widened to whole backing pages, and merged where they then overlap: an address can be registered with one
 * userfaultfd only. Of `memories`, a bit each. Sorted by memory and offset. */
static unsigned find_slices(const pb_client *client, uint32_t memories, struct slice *ret) {
        unsigned n = 0;

        for (unsigned i = 0; i < client->n_regions; i++) {
                const struct link_region *region = &client->regions[i];
                uint64_t backing = client->memories[region->memory].backing_size;
                struct slice slice = { .memory = region->memory, .offset = align_down(region->offset, backing) };
                unsigned at = n;

                if (region->size == 0 || !(memories & 1u << region->memory))
                        continue;
                slice.length = align_up(region->offset + region->size, backing) - slice.offset;
                for (; at > 0 && (ret[at - 1].memory > slice.memory ||
                                  (ret[at - 1].memory == slice.memory && ret[at - 1].offset > slice.offset)); at--)
                        ret[at] = ret[at - 1];
                ret[at] = slice;
                n++;
        }
        for (unsigned i = 1; i < n;) {
                struct slice *last = &ret[i - 1];

                if (last->memory != ret[i].memory || ret[i].offset >= last->offset + last->length) {
                        i++;
                        continue;
                }
                last->length = max_u64(last->length, ret[i].offset + ret[i].length - last->offset);
                memmove(&ret[i], &ret[i + 1], (--n - i) * sizeof *ret);
        }
        return n;
}

/* A userfaultfd that a broker may have taken and did not say so is closed, and the next broker gets another one: nothing
 * is registered with it, so nobody waits on it. */
static int hand_over(pb_client *client, const char *name, int *ret_uffd, uint32_t *ret_peer) {
        for (;;) {
                _cleanup_close_ int uffd = peer_new_uffd(client->uffd_device);
                int r;

                if (uffd < 0)
                        return uffd;
                r = peer_attach(&client->channel, uffd, name, ret_peer);
                if (r == -ERESTART)
                        continue;
                if (r < 0)
                        return r;
                *ret_uffd = fd_take(&uffd);
                return 0;
        }
}

static int attach_one(pb_client *client, const struct slice *slice, struct attached *attached) {
        _cleanup_close_ int uffd = -1;
        char name[PB_NAME_SIZE];
        uint32_t peer;
        int r;

        (void) snprintf(name, sizeof name, "vmm:%u+%#llx", slice->memory, (unsigned long long) slice->offset);
        r = hand_over(client, name, &uffd, &peer);
        if (r < 0)
                return r;
        attached->peers[attached->n].uffd = fd_take(&uffd);
        attached->peers[attached->n++].id = peer;
        return peer_map(&client->channel, peer, slice->memory, client->memories[slice->memory].addr + slice->offset,
                        slice->length, slice->offset);
}

static int attach_slice(pb_client *client, const struct slice *slice, unsigned shards, struct attached *attached) {
        uint64_t backing = client->memories[slice->memory].backing_size;
        uint64_t step = align_up((slice->length + shards - 1) / shards, backing);

        for (uint64_t done = 0; done < slice->length; done += step) {
                const struct slice shard = {
                        .memory = slice->memory,
                        .offset = slice->offset + done,
                        .length = min_u64(step, slice->length - done),
                };
                int r = attach_one(client, &shard, attached);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* True if all is as before. A descriptor whose detach the broker does not confirm stays open for ever: threads may wait
 * on it. */
static bool take_back(pb_client *client, struct attached *attached) {
        bool all = true;

        while (attached->n > 0) {
                attached->n--;
                if (peer_detach(&client->channel, attached->peers[attached->n].id) < 0)
                        all = false;
                else
                        (void) fd_close(attached->peers[attached->n].uffd);
        }
        return all;
}

/* `*ret_attached`, NULL on failure, is the caller's. `*ret_undone`: after a failure all is as before. */
static int attach_memories(pb_client *client, uint32_t memories, unsigned shards, struct attached **ret_attached,
                           bool *ret_undone) {
        _cleanup_free_ struct attached *attached = calloc(1, sizeof *attached);
        struct slice slices[PB_REGIONS_MAX];
        unsigned n = find_slices(client, memories, slices);
        int r = 0;

        *ret_attached = NULL;
        *ret_undone = true;
        if (!attached)
                return -ENOMEM;
        for (unsigned i = 0; r >= 0 && i < n; i++)
                r = attach_slice(client, &slices[i], shards, attached);
        if (r < 0) {
                *ret_undone = take_back(client, attached);
                return r;
        }
        *ret_attached = PTR_TAKE(attached);
        return 0;
}

static int attach_vmm(pb_client *client, const struct pb_vmm_options *options) {
        _cleanup_free_ struct attached *attached = NULL; /* forgotten: for the life of the process */
        unsigned shards = options ? options->shards : 0;
        bool undone;
        int r;

        if (options && (options->size < sizeof *options || options->flags != 0 || shards > SHARDS_MAX))
                return -EINVAL;
        if (client->role != PB_ROLE_VMM)
                return -EACCES;
        if (__atomic_exchange_n(&client->attached, 1, __ATOMIC_ACQ_REL) != 0)
                return -EBUSY;
        client->shards = shards ?: 1;
        (void) pthread_mutex_lock(&client->attach_lock);
        r = attach_memories(client, UINT32_MAX, client->shards, &attached, &undone);
        for (unsigned i = 0; r >= 0 && i < client->n_memories; i++)
                client->memories[i].is_attached = client->memories[i].held;
        (void) pthread_mutex_unlock(&client->attach_lock);
        /* Only what has been undone completely may be tried again. */
        if (r < 0 && undone)
                __atomic_store_n(&client->attached, 0, __ATOMIC_RELEASE);
        return r;
}

int client_attach_memory(pb_client *client, uint32_t index) {
        struct client_memory *memory = &client->memories[index];
        bool undone;
        int r = 0;

        if (__atomic_load_n(&client->attached, __ATOMIC_ACQUIRE) == 0)
                return 0;
        (void) pthread_mutex_lock(&client->attach_lock);
        if (!memory->is_attached) {
                r = attach_memories(client, 1u << index, client->shards, &memory->attached, &undone);
                memory->is_attached = r >= 0;
        }
        (void) pthread_mutex_unlock(&client->attach_lock);
        return r;
}

/* Nothing is mapped there any more, so nobody waits on these descriptors. */
void client_detach_memory(pb_client *client, uint32_t memory) {
        _cleanup_free_ struct attached *attached = NULL;

        (void) pthread_mutex_lock(&client->attach_lock);
        attached = PTR_TAKE(client->memories[memory].attached);
        client->memories[memory].is_attached = false;
        if (attached)
                (void) take_back(client, attached);
        (void) pthread_mutex_unlock(&client->attach_lock);
}

int pb_attach_vmm(pb_client *client, const struct pb_vmm_options *options) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = attach_vmm(client, options);
        return r < 0 ? failure_record(&client->failures, &(struct failure) { FAILURE_ATTACH_VMM, r }) : 0;
}
