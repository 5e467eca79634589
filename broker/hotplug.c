/* SPDX-License-Identifier: MIT */
#include "broker/hotplug.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker/broker.h"
#include "broker/bus/bus.h"
#include "broker/connection.h"
#include "broker/holders.h"
#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fence.h"
#include "common/log.h"
#include "common/macro.h"

/* A REMOVE_MEMORY that waits for its answer. */
struct removal {
        struct removal *prev, *next;
        struct connection *connection;
        uint32_t memory;
        uint64_t serial;
        sd_event_source *timer;
};

static struct memory *get_memory(const struct broker *broker, uint32_t index) {
        return index < broker->n_memories ? broker->memories[index] : NULL;
}

bool hotplug_is_shown(const struct memory *memory, bool resuming) {
        /* Hidden: it is being cleared, and shows zeros already. */
        return memory->standing == MEMORY_IN ||
               (memory->standing == MEMORY_LEAVING && resuming && !atomic_load(&memory->hidden));
}

/* ---- the next broker's ---- */

static void enter(struct broker *broker, const struct memory *memory) {
        struct ledger_plug *plug = broker->ledger ? &broker->ledger->data->plugs[memory->index] : NULL;
        struct ledger_plug_state *spare;

        if (!plug)
                return;
        spare = &plug->states[!(plug->valid & 1)];
        *spare = (struct ledger_plug_state) { .standing = memory->standing };
        for (unsigned i = 0; i < broker->n_regions; i++)
                if (broker->regions[i].plugged && broker->regions[i].memory == memory->index)
                        spare->regions[spare->n_regions++] = (struct pb_message_add_region) {
                                .gpa = broker->regions[i].gpa,
                                .size = broker->regions[i].size,
                                .offset = broker->regions[i].offset,
                        };
        __atomic_store_n(&plug->valid, !(plug->valid & 1), __ATOMIC_RELEASE);
}

/* Behind those that were there from the start: a place for each that any memory can have. */
static uint32_t region_id(const struct broker *broker, uint32_t memory, unsigned n) {
        unsigned n_fixed = 0;

        for (unsigned i = 0; i < broker->n_regions; i++)
                n_fixed += !broker->regions[i].plugged;
        return n_fixed + memory * PB_ADD_REGIONS_MAX + n;
}

static void add_region(struct broker *broker, uint32_t memory, const struct pb_message_add_region *from, unsigned n) {
        uint32_t id = region_id(broker, memory, n);

        broker->regions[broker->n_regions++] = (struct region) {
                .memory = memory,
                .gpa = from->gpa,
                .size = from->size,
                .offset = from->offset,
                .plugged = true,
                .id = id,
        };
}

static void drop_regions(struct broker *broker, uint32_t memory) {
        unsigned keep = 0;

        for (unsigned i = 0; i < broker->n_regions; i++)
                if (!broker->regions[i].plugged || broker->regions[i].memory != memory)
                        broker->regions[keep++] = broker->regions[i];
        broker->n_regions = keep;
}

static int on_grace(sd_event_source *source, uint64_t usec, void *data) {
        struct broker *broker = data;

        broker->grace = sd_event_source_disable_unref(broker->grace);
        hotplug_check(broker);
        return 0;
}

void hotplug_begin(struct broker *broker) {
        for (unsigned i = 0; i < broker->n_regions; i++)
                broker->regions[i].id = i;
        for (unsigned i = 0; i < broker->n_memories; i++) {
                struct memory *memory = broker->memories[i];
                const struct ledger_plug *plug = broker->resumed ? &broker->ledger->data->plugs[i] : NULL;

                memory->standing = broker->options->memories[i].plugged ? MEMORY_IN : MEMORY_OUT;
                if (plug && !broker->options->memories[i].plugged) {
                        const struct ledger_plug_state *state = &plug->states[plug->valid & 1];

                        memory->standing = (enum memory_standing) state->standing;
                        for (unsigned j = 0; j < min_u64(state->n_regions, PB_ADD_REGIONS_MAX); j++)
                                add_region(broker, i, &state->regions[j], j);
                }
                atomic_store(&memory->hidden, memory->standing == MEMORY_OUT);
                memory->pluggable = !broker->options->memories[i].plugged;
                if (!broker->resumed)
                        enter(broker, memory);
        }
}

int hotplug_resume(struct broker *broker) {
        int r = broker->resumed ? holders_restore(broker) : 0;

        /* The ledger had no room for all of them: whoever is missing gets time to come back and hold it again. */
        if (r >= 0 && broker->resumed && broker->ledger->data->holders_missing)
                r = sd_event_add_time_relative(broker->event, &broker->grace, CLOCK_MONOTONIC, HOLDER_PATIENCE_US, 0, on_grace,
                                               broker);
        return r;
}

/* ---- coming ---- */

static bool region_is_free(const struct broker *broker, uint64_t gpa, uint64_t size) {
        for (unsigned i = 0; i < broker->n_regions; i++)
                if (gpa < broker->regions[i].gpa + broker->regions[i].size && broker->regions[i].gpa < gpa + size)
                        return false;
        return true;
}

static int check_regions(struct broker *broker, const struct memory *memory, const struct pb_message_add_memory *message,
                         const char **ret_text) {
        uint64_t end;

        *ret_text = "1 to 4 regions, each inside the memory, of multiples of its page size";
        if (message->n_regions == 0 || message->n_regions > PB_ADD_REGIONS_MAX)
                return -EINVAL;
        for (unsigned i = 0; i < message->n_regions; i++) {
                const struct pb_message_add_region *region = &message->regions[i];

                if (region->size == 0 || !is_aligned(region->gpa | region->size | region->offset, memory->backing_size) ||
                    __builtin_add_overflow(region->gpa, region->size, &end) ||
                    !range_fits(region->offset, region->size, memory->size))
                        return -EINVAL;
        }
        *ret_text = "too many regions";
        if (broker->n_regions + message->n_regions > PB_REGIONS_MAX)
                return -ENOSPC;
        *ret_text = "a region lies over another one";
        for (unsigned i = 0; i < message->n_regions; i++) {
                const struct pb_message_add_region *region = &message->regions[i];

                if (!region_is_free(broker, region->gpa, region->size))
                        return -EINVAL;
                for (unsigned j = 0; j < i; j++)
                        if (region->gpa < message->regions[j].gpa + message->regions[j].size &&
                            message->regions[j].gpa < region->gpa + region->size)
                                return -EINVAL;
        }
        return 0;
}

int hotplug_add(struct broker *broker, const struct pb_message_add_memory *message, const char **ret_text) {
        struct connection *connection, *next;
        struct memory *memory = NULL;
        int r;

        *ret_text = "the broker was started without a memory of this name (--memory=NAME,...,plugged=off)";
        if (!memchr(message->name, 0, sizeof message->name))
                return -EINVAL;
        for (unsigned i = 0; i < broker->n_memories; i++)
                if (strcmp(broker->memories[i]->name, message->name) == 0)
                        memory = broker->memories[i];
        if (!memory)
                return -ENOENT;
        *ret_text = memory->standing == MEMORY_IN ? "it is plugged in" : "it is leaving; somebody still uses it";
        if (memory->standing != MEMORY_OUT)
                return -EEXIST;
        r = check_regions(broker, memory, message, ret_text);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < message->n_regions; i++)
                add_region(broker, memory->index, &message->regions[i], i);
        memory->standing = MEMORY_IN;
        atomic_store(&memory->hidden, false);
        KILL_POINT("plug-begun");
        enter(broker, memory);
        KILL_POINT("plug-entered");
        pager_fill_anew(broker->pager);
        log_info("memory %s (%llu MiB) is plugged in", memory->name, (unsigned long long) (memory->size >> 20));
        DL_FOREACH_SAFE (broker->connections, connection, next)
                if (connection->fd >= 0 && connection->ready && connection->hotplug)
                        connection_tell_memory(connection, memory);
        KILL_POINT("plug-told");
        bus_memory_came(broker, memory);
        *ret_text = "";
        return (int) memory->index;
}

/* ---- going ---- */

static void removal_end(struct broker *broker, struct removal *removal, int error, const char *text) {
        (void) sd_event_source_disable_unref(removal->timer);
        DL_DELETE(broker->removals, removal);
        if (removal->connection->fd >= 0)
                (void) connection_send_result(removal->connection, PB_MSG_RESULT, removal->serial, error, removal->memory, text);
        free(removal);
}

static int on_removal_timeout(sd_event_source *source, uint64_t usec, void *data) {
        struct removal *removal = data;
        struct broker *broker = removal->connection->broker;
        struct memory *memory = broker->memories[removal->memory];
        char names[PB_TEXT_SIZE - 32], text[PB_TEXT_SIZE];

        if (holders_count(broker, memory, names, sizeof names) > 0)
                (void) snprintf(text, sizeof text, "still held by %s", names);
        else
                (void) snprintf(text, sizeof text, "%s",
                                broker->grace ? "waiting for clients to come back after a restart of the broker"
                                              : "its pages are being given back");
        log_notice("memory %s cannot leave: %s", memory->name, text);
        removal_end(broker, removal, -EBUSY, text);
        return 0;
}

static void start_leaving(struct broker *broker, struct memory *memory) {
        struct pb_message_of_memory leaving = {
                .header = { .type = PB_MSG_LEAVING, .size = sizeof leaving },
                .memory = memory->index,
        };
        struct connection *connection, *next;

        memory->standing = MEMORY_LEAVING;
        enter(broker, memory);
        KILL_POINT("unplug-entered");
        log_info("memory %s is to leave", memory->name);
        DL_FOREACH_SAFE (broker->connections, connection, next)
                if (connection->hotplug && (holder_has(connection, memory) || connection->role == PB_AS_OBSERVER) &&
                    connection->ready)
                        (void) connection_send(connection, &leaving, sizeof leaving, NULL, 0);
}

void hotplug_remove(struct connection *connection, uint32_t index, uint64_t serial) {
        struct broker *broker = connection->broker;
        struct memory *memory = get_memory(broker, index);
        struct removal *removal;

        if (!memory || memory->standing == MEMORY_OUT) {
                (void) connection_send_result(connection, PB_MSG_RESULT, serial, -ENOENT, 0, "no such memory is plugged in");
                return;
        }
        if (broker->options->memories[index].plugged) {
                (void) connection_send_result(connection, PB_MSG_RESULT, serial, -EPERM, 0,
                                              "it was there from the start and stays (only plugged=off memories leave)");
                return;
        }
        /* Each costs memory and a timer: one for each memory will do. */
        DL_FOREACH (broker->removals, removal)
                if (removal->connection == connection && removal->memory == index) {
                        (void) connection_send_result(connection, PB_MSG_RESULT, serial, -EBUSY, 0,
                                                      "this client waits for it already");
                        return;
                }
        removal = calloc(1, sizeof *removal);
        if (!removal || sd_event_add_time_relative(broker->event, &removal->timer, CLOCK_MONOTONIC,
                                                   broker->options->release_timeout_us, 0, on_removal_timeout, removal) < 0) {
                free(removal);
                (void) connection_send_result(connection, PB_MSG_RESULT, serial, -ENOMEM, 0, "out of memory");
                return;
        }
        removal->connection = connection;
        removal->memory = index;
        removal->serial = serial;
        DL_APPEND(broker->removals, removal);
        if (memory->standing == MEMORY_IN)
                start_leaving(broker, memory);
        hotplug_check(broker);
}

/* By another connection of the same process? Then its address space still has it. */
static bool is_held_beside(const struct connection *connection, const struct memory *memory) {
        const struct connection *other;

        DL_FOREACH (connection->broker->connections, other)
                if (other != connection && (other->fd >= 0 || other->lost) && other->given & 1u << memory->index &&
                    connection_is_same_process(connection, other))
                        return true;
        return false;
}

static void release(struct connection *connection, struct memory *memory) {
        struct connection *other;

        connection->given &= ~(1u << memory->index);
        connection->told &= ~(1u << memory->index);
        /* Its own, and those that it had before a restart; not what another client in the same process still maps. */
        DL_FOREACH (connection->broker->connections, other)
                if (other == connection ||
                    (connection_is_same_process(connection, other) && !is_held_beside(connection, memory)))
                        for (unsigned i = 0; i < other->n_peers; i++)
                                peer_forget_memory(other->peers[i], memory);
}

void hotplug_release(struct connection *connection, uint32_t index) {
        struct memory *memory = get_memory(connection->broker, index);

        if (!memory)
                return;
        release(connection, memory);
        holder_note(connection);
        hotplug_check(connection->broker);
}

void hotplug_release_all(struct connection *connection) {
        struct broker *broker = connection->broker;

        for (unsigned i = 0; i < broker->n_memories; i++)
                if (broker->memories[i]->pluggable && connection->given & 1u << i)
                        release(connection, broker->memories[i]);
        holder_note(connection);
        hotplug_check(broker);
}

void hotplug_forget(struct connection *connection) {
        struct broker *broker = connection->broker;
        struct removal *removal, *next;

        /* It has no socket any more: nothing is sent, so nobody else is hung up meanwhile. */
        DL_FOREACH_SAFE (broker->removals, removal, next)
                if (removal->connection == connection)
                        removal_end(broker, removal, 0, "");
        holder_hang_up(connection);
        if (broker->event)
                hotplug_check(broker);
}

void hotplug_check(struct broker *broker) {
        char names[64];

        if (broker->grace || broker->stopping)
                return;
        for (unsigned i = 0; i < broker->n_memories; i++) {
                struct memory *memory = broker->memories[i];

                if (!memory || memory->standing != MEMORY_LEAVING || atomic_load(&memory->hidden) ||
                    holders_count(broker, memory, names, sizeof names) > 0)
                        continue;
                atomic_store(&memory->hidden, true);
                fence_full();
                /* A mapping that was on its way: its thread has entered it before we hid, or sees now that we have. */
                if (__atomic_load_n(&memory->n_peers, __ATOMIC_ACQUIRE) > 0) {
                        atomic_store(&memory->hidden, false);
                        continue;
                }
                KILL_POINT("unplug-hidden");
                pager_clear(broker->pager, memory);
        }
}

/* A caller who does not read is hung up by his answer, and with him go all his other removals: so from the start again. */
static void end_removals(struct broker *broker, const struct memory *memory, int error, const char *text) {
        struct removal *removal = broker->removals;

        while (removal)
                if (!memory || removal->memory == memory->index) {
                        removal_end(broker, removal, error, text);
                        removal = broker->removals;
                } else
                        removal = removal->next;
}

void hotplug_cleared(struct broker *broker, struct memory *memory, int result) {
        struct connection *connection;

        if (result < 0) {
                /* Somebody who has no right to it holds the inode's lock. Once more, when somebody asks. */
                log_error("memory %s: its pages cannot be given back: %s", memory->name, strerror(-result));
                atomic_store(&memory->hidden, false);
        } else {
                KILL_POINT("unplug-cleared");
                bus_memory_leaves(broker, memory);
                memory->standing = MEMORY_OUT;
                drop_regions(broker, memory->index);
                enter(broker, memory);
                KILL_POINT("unplug-left");
                /* Observers were not waited for. */
                DL_FOREACH (broker->connections, connection) {
                        connection->given &= ~(1u << memory->index);
                        connection->told &= ~(1u << memory->index);
                        holder_note(connection);
                }
                log_info("memory %s has left", memory->name);
        }
        end_removals(broker, memory, result, result < 0 ? "its pages cannot be given back" : "");
}

void hotplug_end(struct broker *broker) {
        broker->grace = sd_event_source_disable_unref(broker->grace);
        end_removals(broker, NULL, -ECONNRESET, "the broker ends");
}
