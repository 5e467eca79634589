/* SPDX-License-Identifier: MIT */
/* Signals: what happened, told at a bounded rate. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/bus/bus-internal.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "common/macro.h"

/* ---- from other threads ---- */

static void wake(struct bus *bus) {
        (void) !write(bus->eventfd, &(uint64_t) { 1 }, sizeof(uint64_t));
}

void bus_post_poisoned(void *broker, const struct memory *memory, uint64_t slice, uint64_t mask, int error,
                       uint32_t left_out) {
        struct bus *bus = ((struct broker *) broker)->bus;

        if (!bus)
                return;
        (void) pthread_mutex_lock(&bus->lock);
        bus->poisoned_left_out += left_out;
        if (bus->n_poisoned < BUS_POISONED_MAX) {
                bus->poisoned[bus->n_poisoned++] = (struct poisoned) {
                        .memory = memory->index,
                        .left_out = bus->poisoned_left_out,
                        .page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask),
                        .n_pages = (unsigned) __builtin_popcountll(mask),
                        .error = error,
                };
                bus->poisoned_left_out = 0;
        } else
                bus->poisoned_left_out++;
        (void) pthread_mutex_unlock(&bus->lock);
        wake(bus);
}

void bus_post_lost(void *broker, const struct memory *memory) {
        struct bus *bus = ((struct broker *) broker)->bus;

        if (!bus)
                return;
        (void) pthread_mutex_lock(&bus->lock);
        bus->lost[memory->index] = true;
        (void) pthread_mutex_unlock(&bus->lock);
        wake(bus);
}

/* ---- on the control thread ---- */

static void tell_poisoned(struct bus *bus, const struct poisoned *poisoned) {
        const struct memory *memory = bus->broker->memories[poisoned->memory];

        (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "PageError", "sttssu", memory->name, poisoned->page,
                                  poisoned->n_pages, memory->source->name, source_error_text(poisoned->error),
                                  poisoned->left_out);
}

static void tell_lost(struct bus *bus, const struct memory *memory) {
        (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "SourceLost", "sss", memory->name,
                                  memory->source->name, source_error_text(-ESTALE));
}

static int on_news(sd_event_source *source, int fd, uint32_t events, void *data) {
        struct poisoned poisoned[BUS_POISONED_MAX];
        bool lost[PB_MEMORIES_MAX];
        struct bus *bus = data;
        unsigned n;

        (void) !read(fd, &(uint64_t) { 0 }, sizeof(uint64_t));
        (void) pthread_mutex_lock(&bus->lock);
        n = bus->n_poisoned;
        bus->n_poisoned = 0;
        memcpy(poisoned, bus->poisoned, sizeof poisoned);
        memcpy(lost, bus->lost, sizeof lost);
        memset(bus->lost, 0, sizeof bus->lost);
        (void) pthread_mutex_unlock(&bus->lock);
        if (!bus_is_up(bus))
                return 0;
        for (unsigned i = 0; i < bus->broker->n_memories; i++)
                if (lost[i])
                        tell_lost(bus, bus->broker->memories[i]);
        for (unsigned i = 0; i < n; i++)
                tell_poisoned(bus, &poisoned[i]);
        bus_tell_changes(bus);
        return 0;
}

int bus_start_news(struct bus *bus) {
        int r = sd_event_add_io(bus->broker->event, &bus->news_source, bus->eventfd, EPOLLIN, on_news, bus);

        bus->state = bus_vm_state(bus->broker);
        bus->fill = atomic_load_explicit(&bus->broker->pager->fill_on_now, memory_order_relaxed);
        bus->fill_rate = pager_get_fill_rate(bus->broker->pager);
        if (pager_is_complete(bus->broker->pager))
                bus->completed_us = bus->started_us;
        return r;
}

/* Properties that say when they change. */
void bus_tell_changes(struct bus *bus) {
        bool fill = atomic_load_explicit(&bus->broker->pager->fill_on_now, memory_order_relaxed);
        uint64_t rate = pager_get_fill_rate(bus->broker->pager);
        const char *state = bus_vm_state(bus->broker);
        bool changed = state != bus->state || fill != bus->fill || rate != bus->fill_rate;

        bus->state = state;
        bus->fill = fill;
        bus->fill_rate = rate;
        if (changed && bus_is_up(bus))
                (void) sd_bus_emit_properties_changed(bus->bus, BUS_VM, BUS_INTERFACE_VM, "State", "CompletedAt", "Fill",
                                                      "FillRate", NULL);
}

void bus_completed(struct broker *broker) {
        struct bus *bus = broker->bus;

        if (!bus || bus->completed_us > 0)
                return;
        bus->completed_us = bus_realtime_us();
        bus_tell_changes(bus);
        if (bus_is_up(bus))
                (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "Completed", "");
}

void bus_fill_changed(struct broker *broker) {
        if (broker->bus)
                bus_tick_soon(broker->bus);
}

/* ---- memories ---- */

/* The regions and the memory itself; all of them must be there at that moment. */
static void tell_objects(struct bus *bus, const struct memory *memory, int (*tell)(sd_bus *bus, const char *path)) {
        const struct broker *broker = bus->broker;
        char path[64];

        for (unsigned i = 0; i < broker->n_regions; i++)
                if (broker->regions[i].memory == memory->index) {
                        bus_region_path(&broker->regions[i], path);
                        (void) tell(bus->bus, path);
                }
        bus_source_path(memory, path);
        (void) tell(bus->bus, path);
}

void bus_memory_came(struct broker *broker, const struct memory *memory) {
        struct bus *bus = broker->bus;

        if (!bus)
                return;
        if (!pager_is_complete(broker->pager))
                bus->completed_us = 0; /* it will be, once more */
        if (!bus_is_up(bus))
                return;
        tell_objects(bus, memory, sd_bus_emit_object_added);
        (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "MemoryAdded", "sut", memory->name, memory->index,
                                  memory->size);
        bus_tell_changes(bus);
        bus_tick_soon(bus);
}

void bus_memory_leaves(struct broker *broker, const struct memory *memory) {
        struct bus *bus = broker->bus;

        if (!bus_is_up(bus))
                return;
        tell_objects(bus, memory, sd_bus_emit_object_removed);
        (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "MemoryRemoved", "su", memory->name, memory->index);
        bus_tick_soon(bus);
}

/* ---- clients ---- */

static void announce(struct bus *bus, struct connection *connection) {
        char path[64];

        connection->announced = true;
        if (!bus_is_up(bus))
                return;
        bus_client_path(connection, path);
        (void) sd_bus_emit_object_added(bus->bus, path);
        (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "ClientConnected", "tssuu", connection->id,
                                  connection->name, connection_role_name(connection),
                                  (uint32_t) connection->credentials.pid, connection->credentials.uid);
}

/* Whoever may connect could make us talk without end; so some are told of later, and not at all if they have left by
 * then. As every leaving was an arrival, that limits both. */
static bool may_announce(struct bus *bus) {
        uint32_t suppressed;

        return log_limit_pass(&bus->arrivals, &suppressed);
}

void bus_client_arrived(struct connection *connection) {
        struct bus *bus = connection->broker->bus;

        if (!bus)
                return;
        if (may_announce(bus)) {
                announce(bus, connection);
                return;
        }
        bus->unannounced = true;
        bus_tick_soon(bus);
}

void bus_announce_late(struct bus *bus) {
        struct connection *connection;

        if (!bus->unannounced)
                return;
        bus->unannounced = false;
        DL_FOREACH (bus->broker->connections, connection) {
                if (!connection->ready || connection->announced || (connection->fd < 0 && !connection->restored) ||
                    connection->role == PB_AS_OBSERVER)
                        continue;
                if (!may_announce(bus)) {
                        bus->unannounced = true;
                        return;
                }
                announce(bus, connection);
        }
}

void bus_client_changed(struct connection *connection) {
        struct bus *bus = connection->broker->bus;
        char path[64];

        if (!bus_is_up(bus) || !connection->announced)
                return;
        bus_client_path(connection, path);
        (void) sd_bus_emit_properties_changed(bus->bus, path, "org.pagebroker1.Client", "Connected", NULL);
}

void bus_client_left(struct connection *connection) {
        struct bus *bus = connection->broker->bus;
        char path[64];

        if (!bus || !connection->announced)
                return;
        if (bus_is_up(bus)) {
                /* The object must still be there to be taken away. */
                bus_client_path(connection, path);
                (void) sd_bus_emit_object_removed(bus->bus, path);
                (void) sd_bus_emit_signal(bus->bus, BUS_VM, BUS_INTERFACE_VM, "ClientDisconnected", "ts", connection->id,
                                          connection->name);
        }
        connection->announced = false;
}
