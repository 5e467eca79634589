/* SPDX-License-Identifier: MIT */
/*
 * Memory that comes and goes (PROTOCOL.md). The tables of memories and regions are changed under the channel's lock and that
 * of a resume, by what the broker says and by pb_release_region(); everybody else reads them without a lock. So a region is filled in
 * first and gets its size last, and loses it first; its map stays mapped for ever, because another thread may be looking
 * at it just now.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "client/client.h"
#include "client/completion.h"
#include "client/map.h"
#include "client/resume.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/macro.h"
#include "common/packet.h"

/* The broker's own limit ends the wait. */
#define REMOVE_TIMEOUT_US (24 * 3600 * 1000000ull)

static int fail(pb_client *client, enum failure_call call, int error) {
        return failure_record(&client->failures, &(struct failure) { call, error });
}

uint32_t client_get_held(const pb_client *client) {
        uint32_t held = 0;

        for (unsigned i = 0; i < client->n_memories; i++)
                if (__atomic_load_n(&client->memories[i].held, __ATOMIC_ACQUIRE))
                        held |= 1u << i;
        return held;
}

uint32_t client_get_partial(const pb_client *client) {
        uint32_t partial = 0;

        for (unsigned i = 0; i < client->n_memories; i++)
                if (client->memories[i].partial)
                        partial |= 1u << i;
        return partial;
}

/* ---- what the broker says ---- */

/* The map of this memory may be there from the last time: the fast path's pointers stay what they are. */
static int place_map(struct client_memory *memory, const struct link_memory *from, uint64_t epoch) {
        const struct pb_map_header *map;
        int r = map_presence(from, epoch, &map);

        if (r < 0)
                return r;
        if (memory->map) {
                if (memory->map_size != from->map_size || map->present_offset != memory->map->present_offset ||
                    map->poison_offset != memory->map->poison_offset)
                        r = -EPROTO;
                else if (mremap((void *) map, from->map_size, from->map_size, MREMAP_MAYMOVE | MREMAP_FIXED,
                                (void *) memory->map) != MAP_FAILED)
                        return 0;
                else
                        r = -errno;
                (void) munmap((void *) map, from->map_size);
                return r;
        }
        memory->map = map;
        memory->map_size = from->map_size;
        memory->present = (const uint32_t *) (const void *) ((const char *) map + map->present_offset);
        memory->poison = (const uint32_t *) (const void *) ((const char *) map + map->poison_offset);
        return 0;
}

static int map_new_memory(pb_client *client, unsigned index, struct link_memory *from) {
        struct client_memory *memory = &client->memories[index];
        int protection = client->role == PB_ROLE_DEVICE_RO ? PROT_READ : PROT_READ | PROT_WRITE;
        int r = 0;

        memory->size = from->size;
        memory->backing_size = from->backing_size;
        memcpy(memory->name, from->name, sizeof memory->name);
        if (client->role == PB_ROLE_OBSERVER)
                return 0;
        r = place_map(memory, from, client->resume.epoch);
        if (r < 0)
                return r;
        memory->addr = map_untouched(from->fd, from->size, protection, &r);
        if (!memory->addr)
                return r;
        memory->fd = fd_take(&from->fd);
        return 0;
}

/* Returns true if it was the memory's last: then nothing of it is mapped here any more but the map. */
static bool drop_region(pb_client *client, unsigned index, uint32_t *ret_memory) {
        struct client_memory *memory = &client->memories[client->regions[index].memory];

        *ret_memory = client->regions[index].memory;
        __atomic_store_n(&client->views[index].size, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&client->regions[index].size, 0, __ATOMIC_RELEASE);
        client->resume.origin.regions[index].size = 0;
        (void) __atomic_fetch_and(&client->region_leaving, ~(1ull << index), __ATOMIC_RELEASE);
        (void) __atomic_fetch_and(&client->region_added, ~(1ull << index), __ATOMIC_RELEASE);
        memory->partial = true;
        for (unsigned i = 0; i < client->n_regions; i++)
                if (client->regions[i].size && client->regions[i].memory == *ret_memory)
                        return false;
        __atomic_store_n(&memory->held, false, __ATOMIC_RELEASE);
        if (memory->addr)
                (void) munmap(memory->addr, memory->size);
        memory->addr = NULL;
        memory->fd = fd_close(memory->fd);
        client_remember_files(client);
        return true;
}

static void drop_memory(pb_client *client, uint32_t memory) {
        uint32_t dropped;

        for (unsigned i = 0; i < client->n_regions; i++)
                if (client->regions[i].size && client->regions[i].memory == memory)
                        (void) drop_region(client, i, &dropped);
}

static int take_memory(pb_client *client, const struct pb_message_memory *message, struct packet_info *info) {
        struct link_memory memory = { .fd = -1, .map_fd = -1 };
        int r;

        if (message->index >= client->n_memories)
                return -EPROTO;
        /* Nobody waits for an observer when a memory leaves, so it may be back before this one has let go of it. */
        if (client->memories[message->index].held && client->role == PB_ROLE_OBSERVER)
                drop_memory(client, message->index);
        if (client->memories[message->index].held)
                return -EPROTO;
        r = link_take_memory(&memory, message, info, client->role != PB_ROLE_OBSERVER);
        if (r == 0 && memory.size == 0)
                r = -EPROTO;
        if (r == 0)
                r = map_new_memory(client, message->index, &memory);
        memory.fd = fd_close(memory.fd);
        memory.map_fd = fd_close(memory.map_fd);
        if (r < 0)
                return r;
        client->resume.origin.memories[message->index] = memory;
        client->memories[message->index].partial = client->memories[message->index].later = true;
        client->memories[message->index].n_told = 0;
        client_remember_files(client);
        __atomic_store_n(&client->memories[message->index].held, true, __ATOMIC_RELEASE);
        return 0;
}

static int find_place(const pb_client *client) {
        for (unsigned i = client->n_sorted; i < client->n_regions; i++)
                if (client->regions[i].size == 0)
                        return (int) i;
        return client->n_regions < PB_REGIONS_MAX ? (int) client->n_regions : -EPROTO;
}

static int place_region(pb_client *client, struct link_region region) {
        struct client_memory *memory = &client->memories[region.memory];
        int place = find_place(client);

        if (place < 0 || memory->n_told >= PB_ADD_REGIONS_MAX)
                return -EPROTO;
        for (unsigned i = 0; i < client->n_regions; i++)
                if (client->regions[i].size && region.gpa < client->regions[i].gpa + client->regions[i].size &&
                    client->regions[i].gpa < region.gpa + region.size)
                        return -EPROTO;
        memory->told[memory->n_told++] = region.gpa;
        client->regions[place].memory = region.memory;
        client->regions[place].gpa = region.gpa;
        client->regions[place].offset = region.offset;
        client->views[place].gpa = region.gpa;
        client->views[place].first_page = region.offset >> PB_PAGE_SHIFT;
        client->views[place].words = client->memories[region.memory].present;
        __atomic_store_n(&client->regions[place].size, region.size, __ATOMIC_RELEASE);
        if (client->role != PB_ROLE_OBSERVER)
                __atomic_store_n(&client->views[place].size, region.size, __ATOMIC_RELEASE);
        if ((unsigned) place == client->n_regions) {
                __atomic_store_n(&client->n_regions, client->n_regions + 1, __ATOMIC_RELEASE);
                if (client->role != PB_ROLE_OBSERVER)
                        __atomic_store_n(&client->prefix.n_views, client->n_regions, __ATOMIC_RELEASE);
        }
        client->resume.origin.regions[place] = region;
        client->resume.origin.n_regions = client->n_regions;
        (void) __atomic_fetch_or(&client->region_added, 1ull << place, __ATOMIC_RELEASE);
        return 0;
}

static int take_region(pb_client *client, const struct pb_message_region *message) {
        struct link_memory size = {};
        struct link_region region;
        int r;

        if (message->memory >= client->n_memories || !client->memories[message->memory].held ||
            !client->memories[message->memory].later)
                return -EPROTO;
        size.size = client->memories[message->memory].size;
        r = link_take_region(&region, message, &size);
        return r < 0 ? r : place_region(client, region);
}

static void note_leaving(pb_client *client, uint32_t memory) {
        for (unsigned i = 0; i < client->n_regions; i++)
                if (client->regions[i].size && client->regions[i].memory == memory)
                        (void) __atomic_fetch_or(&client->region_leaving, 1ull << i, __ATOMIC_RELEASE);
}

static int take(pb_client *client, const union link_message *message, struct packet_info *info) {
        uint32_t memory = message->of_memory.memory;

        if (message->header.type == PB_MSG_MEMORY)
                return take_memory(client, &message->memory, info);
        if (message->header.type == PB_MSG_REGION)
                return take_region(client, &message->region);
        if (memory >= client->n_memories)
                return -EPROTO;
        if (client->memories[memory].held)
                note_leaving(client, memory);
        else if (client->role != PB_ROLE_OBSERVER) {
                /* The broker gave it to us when we resumed, and we have not taken it yet: now we need not. */
                (void) __atomic_fetch_and(&client->missed_new, ~(1u << memory), __ATOMIC_RELEASE);
                (void) __atomic_fetch_or(&client->missed_release, 1u << memory, __ATOMIC_RELEASE);
        }
        return 0;
}

/* What a broker has said that somebody has found a successor of meanwhile is passed over: the successor has said how
 * things are, and has another map. */
int client_take_unasked(void *userdata, uint32_t generation, const union link_message *message, struct packet_info *info) {
        pb_client *client = userdata;
        struct resume_lock lock;
        int r = 0;

        client_lock_resume(client, &lock);
        if (client_generation(client) == generation)
                r = take(client, message, info);
        client_unlock_resume(client, &lock);
        return r;
}

/* The broker gave it to us with the others, and cannot know that we had let go of it: said before any call that is made
 * again, because that may be the one that waits for it. Nobody waits for the answer; receive_answer() drops it. */
static bool release_on(int socket, uint32_t memory) {
        struct pb_message_of_memory message = {
                .header = { .type = PB_MSG_RELEASE, .size = sizeof message, .serial = CALL_SERIAL_UNAWAITED },
                .memory = memory,
        };

        return link_send(socket, 0, &message, NULL, 0) >= 0;
}

/* The broker has ended between a memory and its last region. */
static bool take_missing_regions(pb_client *client, const struct link *link, unsigned index) {
        const struct client_memory *memory = &client->memories[index];
        bool any = false;

        for (unsigned i = 0; i < link->n_regions; i++) {
                bool told = link->regions[i].memory != index || link->regions[i].size == 0;

                for (unsigned j = 0; j < memory->n_told && !told; j++)
                        told = memory->told[j] == link->regions[i].gpa;
                if (!told && place_region(client, link->regions[i]) == 0)
                        any = true;
        }
        return any;
}

void client_note_memories(pb_client *client, const struct link *link) {
        uint32_t held = client_get_held(client);
        bool news = false;

        for (unsigned i = 0; i < link->n_memories; i++) {
                bool leaving = link->memories[i].flags & PB_MEMORY_LEAVING;

                if (link->memories[i].size == 0)
                        continue;
                if (held & 1u << i && client->memories[i].later)
                        news = take_missing_regions(client, link, i) || news;
                if (held & 1u << i && leaving)
                        note_leaving(client, i);
                else if (leaving && release_on(client->socket, i))
                        continue;
                else if (!(held & 1u << i))
                        (void) __atomic_fetch_or(leaving ? &client->missed_release : &client->missed_new, 1u << i,
                                                 __ATOMIC_RELEASE);
                else
                        continue;
                news = true;
        }
        if (news && client->ring)
                completion_signal_leftovers(client);
}

/* A connection that breaks says nothing about the mappings, so this has to be said. Nobody waits for the answer. On a HELLO
 * that is under way, too. */
void client_say_goodbye(pb_client *client) {
        if (!client->ring || client->socket < 0)
                return;
        if (client->resume.hello_us != 0)
                (void) release_on(client->resume.link.socket, PB_RELEASE_ALL);
        (void) release_on(client->socket, PB_RELEASE_ALL);
}

/* ---- calls ---- */

static int call_of_memory(pb_client *client, uint32_t type, uint32_t memory, uint64_t timeout_us, union link_message *ret) {
        struct pb_message_of_memory message = {
                .header = { .type = type, .size = sizeof message },
                .memory = memory,
        };

        return call_exchange(&client->channel, &message, NULL, 0, PB_MSG_RESULT, timeout_us, ret);
}

/* What could not be done while the session was being resumed. */
static int catch_up(pb_client *client, uint32_t *missed, uint32_t type) {
        uint32_t memories = __atomic_exchange_n(missed, 0, __ATOMIC_ACQUIRE);
        union link_message reply;

        for (; memories; memories &= memories - 1) {
                int r = call_of_memory(client, type, (uint32_t) __builtin_ctz(memories), CALL_TIMEOUT_US, &reply);

                if (r < 0) {
                        (void) __atomic_fetch_or(missed, memories, __ATOMIC_RELEASE);
                        return r;
                }
        }
        return 0;
}

static bool pop(uint64_t *events, uint32_t *ret_region) {
        uint64_t bits = __atomic_load_n(events, __ATOMIC_ACQUIRE);

        while (bits) {
                uint64_t lowest = bits & -bits;

                bits = __atomic_fetch_and(events, ~lowest, __ATOMIC_ACQ_REL);
                if (bits & lowest) {
                        *ret_region = (uint32_t) __builtin_ctzll(lowest);
                        return true;
                }
        }
        return false;
}

static int pop_event(pb_client *client, struct pb_event *ret) {
        struct pb_event event = { .type = PB_EVENT_REGION_ADDED };
        int r;

        if (pop(&client->region_added, &event.region)) {
                /* All regions of a memory at once, and once. */
                r = client_attach_memory(client, client->regions[event.region].memory);
                if (r < 0) {
                        (void) __atomic_fetch_or(&client->region_added, 1ull << event.region, __ATOMIC_RELEASE);
                        return r;
                }
                *ret = event;
                return 1;
        }
        event.type = PB_EVENT_REGION_LEAVING;
        if (!pop(&client->region_leaving, &event.region))
                return 0;
        *ret = event;
        return 1;
}

static int get_event(pb_client *client, struct pb_event *ret) {
        int r = client_is_dead(client) ? -ECONNRESET : call_take_unasked(&client->channel);

        if (r == -ECONNRESET && !client_is_dead(client)) {
                client_note_lost(client, client_generation(client));
                r = 0;
        }
        /* Not the end: one step towards the next broker, in case that the caller makes no other call. */
        if (r == 0 && client_is_lost(client)) {
                r = client_resume(client, clock_now_us());
                if (r == -EAGAIN)
                        return pop_event(client, ret);
        }
        if (r == 0)
                r = catch_up(client, &client->missed_release, PB_MSG_RELEASE);
        if (r == 0)
                r = catch_up(client, &client->missed_new, PB_MSG_TELL_MEMORY);
        if (r < 0)
                return r;
        return pop_event(client, ret);
}

int pb_get_event(pb_client *client, struct pb_event *ret) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = get_event(client, ret);
        return r < 0 ? fail(client, FAILURE_GET_EVENT, r) : r;
}

static int release_region(pb_client *client, unsigned index) {
        struct resume_lock lock;
        union link_message reply;
        uint32_t memory = 0;
        bool last = false;
        int r = 0;

        call_lock_channel(&client->channel);
        client_lock_resume(client, &lock);
        if (index >= client->n_regions || client->regions[index].size == 0)
                r = -ENOENT;
        else
                last = drop_region(client, index, &memory);
        client_unlock_resume(client, &lock);
        call_unlock_channel(&client->channel);
        if (r < 0 || !last)
                return r;
        client_detach_memory(client, memory);
        return call_of_memory(client, PB_MSG_RELEASE, memory, CALL_TIMEOUT_US, &reply);
}

int pb_release_region(pb_client *client, unsigned index) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = release_region(client, index);
        return r < 0 ? fail(client, FAILURE_RELEASE_REGION, r) : 0;
}

/* A memory that we hold, with these regions if there are any given, and no others; -EEXIST if there is none. */
static int find_by_name(const pb_client *client, const char *name, const struct pb_memory_region *regions, unsigned n) {
        for (unsigned i = 0; i < client->n_memories; i++) {
                const struct client_memory *memory = &client->memories[i];
                unsigned found = 0;

                if (!memory->held || strcmp(memory->name, name) != 0)
                        continue;
                for (unsigned k = 0; k < n; k++)
                        for (unsigned j = 0; j < client->n_regions; j++)
                                found += client->regions[j].memory == i && client->regions[j].gpa == regions[k].gpa &&
                                         client->regions[j].size == regions[k].size &&
                                         client->regions[j].offset == regions[k].offset;
                if (n == 0 || (found == n && memory->n_told == n))
                        return (int) i;
        }
        return -EEXIST;
}

static int add_memory(pb_client *client, const char *name, const struct pb_memory_region *regions, unsigned n) {
        struct pb_message_add_memory message = {
                .header = { .type = PB_MSG_ADD_MEMORY, .size = sizeof message },
                .n_regions = n,
        };
        union link_message reply;
        uint32_t memory, generation;
        bool was_there;
        int r;

        if (client->role != PB_ROLE_VMM)
                return -EACCES;
        if (!name || strlen(name) >= sizeof message.name || n == 0 || n > PB_ADD_REGIONS_MAX)
                return -EINVAL;
        memcpy(message.name, name, strlen(name));
        for (unsigned i = 0; i < n; i++)
                message.regions[i] = (struct pb_message_add_region) { regions[i].gpa, regions[i].size, regions[i].offset };
        was_there = find_by_name(client, name, NULL, 0) >= 0;
        generation = client_generation(client);
        r = call_exchange(&client->channel, &message, NULL, 0, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);
        if (r == -EEXIST && !was_there && client_generation(client) != generation) {
                /* A broker that has ended before it could say so has done it. */
                r = catch_up(client, &client->missed_new, PB_MSG_TELL_MEMORY);
                if (r == 0)
                        r = find_by_name(client, name, regions, n);
        } else if (r == 0)
                r = reply.result.value < client->n_memories ? (int) reply.result.value : -EPROTO;
        if (r < 0)
                return r;
        memory = (uint32_t) r;
        if (!client->memories[memory].held)
                return -EPROTO; /* it has been told of it before the answer */
        r = client_attach_memory(client, memory);
        return r < 0 ? r : (int) memory;
}

int pb_add_memory(pb_client *client, const char *name, const struct pb_memory_region *regions, unsigned n) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = add_memory(client, name, regions, n);
        return r < 0 ? fail(client, FAILURE_ADD_MEMORY, r) : r;
}

static int remove_memory(pb_client *client, uint32_t memory) {
        struct pb_message_of_memory message = {
                .header = { .type = PB_MSG_REMOVE_MEMORY, .size = sizeof message },
                .memory = memory,
        };
        union link_message reply;
        bool again;
        int r;

        if (client->role != PB_ROLE_VMM)
                return -EACCES;
        r = call_exchange_standing(&client->channel, &message, PB_MSG_RESULT, REMOVE_TIMEOUT_US, &reply, &again);
        if (r == -ENOENT && again)
                return 0; /* it has left, and who could have said so had ended */
        if (r == -EBUSY)
                link_copy_text(client->holders, reply.result.text, PB_TEXT_SIZE);
        return r;
}

int pb_remove_memory(pb_client *client, unsigned memory) {
        int r = client_check(client);

        if (r < 0)
                return r;
        r = remove_memory(client, memory);
        return r < 0 ? fail(client, FAILURE_REMOVE_MEMORY, r) : 0;
}
