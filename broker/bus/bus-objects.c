/* SPDX-License-Identifier: MIT */
/* /org/pagebroker1/region/N, source/N and client/ID */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker/bus/bus-internal.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/picture.h"
#include "broker/source.h"
#include "broker/stuck.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"

#define BUS_REGION BUS_ROOT "/region"
#define BUS_SOURCE BUS_ROOT "/source"
#define BUS_CLIENT BUS_ROOT "/client"

/* Counting a region's pages anew for everybody who asks would be the bus's to make us busy. */
#define COUNT_AGAIN_US (100 * USEC_PER_MSEC)

/* The number behind `prefix`, written as we write it: one path, one object. */
static bool parse_path(const char *path, const char *prefix, uint64_t *ret) {
        size_t n = strlen(prefix);
        char again[32];

        if (strncmp(path, prefix, n) != 0 || path[n] != '/')
                return false;
        *ret = strtoull(path + n + 1, NULL, 10);
        (void) snprintf(again, sizeof again, "%" PRIu64, *ret);
        return strcmp(path + n + 1, again) == 0;
}

/* ---- regions ---- */

void bus_region_path(const struct region *region, char ret[64]) {
        (void) snprintf(ret, 64, BUS_REGION "/%" PRIu32, region->id);
}

static const struct region_count *count_region(struct bus *bus, unsigned i) {
        const struct region *region = &bus->broker->regions[i];
        struct region_count *count = &bus->regions[i];

        if (count->at_us == 0 || count->id != region->id || clock_now_us() - count->at_us >= COUNT_AGAIN_US) {
                picture_sum(bus->broker->memories[region->memory], region->offset / PB_PAGE_BYTES, region->size / PB_PAGE_BYTES,
                            &count->present, &count->poisoned);
                count->at_us = clock_now_us();
                count->id = region->id;
        }
        return count;
}

static int find_region(sd_bus *sdbus, const char *path, const char *interface, void *data, void **ret,
                       sd_bus_error *error) {
        struct bus *bus = data;
        const struct broker *broker = bus->broker;
        const struct region_count *count;
        const struct region *region;
        uint64_t id;
        unsigned i;

        if (!parse_path(path, BUS_REGION, &id))
                return 0;
        for (i = 0; i < broker->n_regions && broker->regions[i].id != id; i++)
                ;
        if (i == broker->n_regions)
                return 0;
        region = &broker->regions[i];
        count = count_region(bus, i);
        bus->view.region = (struct region_view) {
                .index = region->id,
                .memory = broker->memories[region->memory]->name,
                .memory_index = region->memory,
                .address = region->gpa,
                .size = region->size,
                .offset = region->offset,
                .backing_size = broker->memories[region->memory]->backing_size,
                .pages_total = region->size / PB_PAGE_BYTES,
                .pages_present = count->present,
                .pages_poisoned = count->poisoned,
        };
        *ret = &bus->view.region;
        return 1;
}

#define CONST SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGE SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define REGION(name, signature, field, flags) \
        SD_BUS_PROPERTY((name), (signature), NULL, offsetof(struct region_view, field), (flags))

static const sd_bus_vtable region_vtable[] = {
        SD_BUS_VTABLE_START(0),
        REGION("Index", "u", index, CONST),
        REGION("Memory", "s", memory, CONST),
        REGION("MemoryIndex", "u", memory_index, CONST),
        REGION("Address", "t", address, CONST),
        REGION("Size", "t", size, CONST),
        REGION("Offset", "t", offset, CONST),
        REGION("BackingSize", "t", backing_size, CONST),
        REGION("PagesTotal", "t", pages_total, CONST),
        REGION("PagesPresent", "t", pages_present, 0),
        REGION("PagesPoisoned", "t", pages_poisoned, 0),
        SD_BUS_VTABLE_END,
};

/* ---- sources ---- */

bool bus_shows_memory(const struct memory *memory) {
        return memory->standing != MEMORY_OUT;
}

struct memory *bus_get_memory(const struct broker *broker, uint32_t index) {
        return index < broker->n_memories && !atomic_load(&broker->memories[index]->hidden) ? broker->memories[index] : NULL;
}

void bus_source_path(const struct memory *memory, char ret[64]) {
        (void) snprintf(ret, 64, BUS_SOURCE "/%" PRIu32, memory->index);
}

static uint64_t get(const atomic_uint_fast64_t *counter) {
        return atomic_load_explicit(counter, memory_order_relaxed);
}

static int find_source(sd_bus *sdbus, const char *path, const char *interface, void *data, void **ret,
                       sd_bus_error *error) {
        struct bus *bus = data;
        const struct memory *memory;
        uint64_t i;

        if (!parse_path(path, BUS_SOURCE, &i) || i >= bus->broker->n_memories ||
            !bus_shows_memory(bus->broker->memories[i]))
                return 0;
        memory = bus->broker->memories[i];
        bus->view.source = (struct source_view) {
                .index = (uint32_t) i,
                .memory = memory->name,
                .address = memory->source->name,
                .offset = memory->source_offset,
                .size = memory->size,
                .backing_size = memory->backing_size,
                .pages_total = memory->n_pages,
                .pages_data = get(&memory->pages_data),
                .pages_present = get(&memory->pages_present),
                .pages_fetched = get(&memory->pages_fetched),
                .pages_poisoned = get(&memory->pages_poisoned),
                .pages_left_out = get(&memory->pages_left_out),
                .pages_in_flight = get(&memory->pages_in_flight),
                .bytes_fetched = get(&memory->pages_fetched) * PB_PAGE_BYTES,
                .reads_failed = get(&memory->reads_failed),
                .lost = atomic_load_explicit(&memory->source_lost, memory_order_relaxed),
        };
        *ret = &bus->view.source;
        return 1;
}

#define SOURCE(name, signature, field, flags) \
        SD_BUS_PROPERTY((name), (signature), NULL, offsetof(struct source_view, field), (flags))

static const sd_bus_vtable source_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SOURCE("Index", "u", index, CONST),
        SOURCE("Memory", "s", memory, CONST),
        SOURCE("Address", "s", address, CONST),
        SOURCE("Offset", "t", offset, CONST),
        SOURCE("Size", "t", size, CONST),
        SOURCE("BackingSize", "t", backing_size, CONST),
        SOURCE("PagesTotal", "t", pages_total, CONST),
        SOURCE("PagesData", "t", pages_data, 0),
        SOURCE("PagesPresent", "t", pages_present, 0),
        SOURCE("PagesFetched", "t", pages_fetched, 0),
        SOURCE("PagesPoisoned", "t", pages_poisoned, 0),
        SOURCE("PagesLeftOut", "t", pages_left_out, 0),
        SOURCE("PagesInFlight", "t", pages_in_flight, 0),
        SOURCE("BytesFetched", "t", bytes_fetched, 0),
        SOURCE("ReadsFailed", "t", reads_failed, 0),
        SOURCE("Lost", "b", lost, 0),
        SD_BUS_VTABLE_END,
};

/* ---- clients ---- */

bool bus_shows(const struct connection *connection) {
        return connection->announced;
}

void bus_client_path(const struct connection *connection, char ret[64]) {
        (void) snprintf(ret, 64, BUS_CLIENT "/%" PRIu64, connection->id);
}

static uint32_t count_waiting(const struct tally *tally) {
        int64_t n = 0;

        /* One thread adds before another takes off, but they are not read at once. */
        for (unsigned class = CLASS_VCPU; class <= CLASS_DEVICE; class++)
                n += atomic_load_explicit(&tally->waiting[class], memory_order_relaxed);
        return n > 0 ? (uint32_t) n : 0;
}

static void view_client(struct broker *broker, const struct connection *connection, struct client_view *view) {
        const struct tally *tally = connection->tally;
        struct connection_usage usage;
        struct stuck oldest;
        uint64_t total;

        connection_get_usage(connection, &usage);
        *view = (struct client_view) {
                .connection = connection,
                .id = connection->id,
                .name = connection->name,
                .role = connection_role_name(connection),
                .pid = (uint32_t) connection->credentials.pid,
                .uid = connection->credentials.uid,
                .connected_us = connection->connected_us,
                .connected = connection->fd >= 0,
                .peers = connection->n_peers,
                .waiting_memory = "",
                .requests = usage.requests,
                .requests_limit = usage.requests_max,
                .bytes = usage.bytes,
                .bytes_limit = usage.bytes_max,
                .peers_limit = usage.descriptors_max,
                .held_back = usage.held_back,
        };
        if (!tally)
                return;
        view->faults_vcpu = get(&tally->taken[CLASS_VCPU]);
        view->faults_device = get(&tally->taken[CLASS_DEVICE]);
        view->prefetches = get(&tally->taken[CLASS_PREFETCH]);
        view->waiting = count_waiting(tally);
        if (view->waiting == 0 || stuck_collect(broker, connection, 0, &oldest, 1, &total) == 0)
                return;
        view->waiting_since_us = bus_time_of_day(oldest.since_ns);
        view->waiting_memory = oldest.memory->name;
        view->waiting_page = oldest.page;
}

static int find_client(sd_bus *sdbus, const char *path, const char *interface, void *data, void **ret,
                       sd_bus_error *error) {
        struct bus *bus = data;
        const struct connection *connection;
        uint64_t id;

        if (!parse_path(path, BUS_CLIENT, &id))
                return 0;
        DL_FOREACH (bus->broker->connections, connection)
                if (connection->id == id && bus_shows(connection)) {
                        view_client(bus->broker, connection, &bus->view.client);
                        *ret = &bus->view.client;
                        return 1;
                }
        return 0;
}

static int get_latency(sd_bus *sdbus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *data, sd_bus_error *error) {
        static const struct latency none[TALLY_CLASSES];
        const struct client_view *view = data;

        return bus_append_latency(reply, view->connection->tally ? view->connection->tally->latency : none);
}

#define CLIENT(name, signature, field, flags) \
        SD_BUS_PROPERTY((name), (signature), NULL, offsetof(struct client_view, field), (flags))

static const sd_bus_vtable client_vtable[] = {
        SD_BUS_VTABLE_START(0),
        CLIENT("Id", "t", id, CONST),
        CLIENT("Name", "s", name, CONST),
        CLIENT("Role", "s", role, CONST),
        CLIENT("ProcessID", "u", pid, CONST),
        CLIENT("UserID", "u", uid, CONST),
        CLIENT("ConnectedAt", "t", connected_us, CONST),
        CLIENT("Connected", "b", connected, CHANGE),
        CLIENT("Peers", "u", peers, 0),
        CLIENT("FaultsVCPU", "t", faults_vcpu, 0),
        CLIENT("FaultsDevice", "t", faults_device, 0),
        CLIENT("Prefetches", "t", prefetches, 0),
        SD_BUS_PROPERTY("Latency", "a(sttttt)", get_latency, 0, 0),
        CLIENT("Waiting", "u", waiting, 0),
        CLIENT("WaitingSince", "t", waiting_since_us, 0),
        CLIENT("WaitingMemory", "s", waiting_memory, 0),
        CLIENT("WaitingPage", "t", waiting_page, 0),
        CLIENT("Requests", "u", requests, 0),
        CLIENT("RequestsLimit", "u", requests_limit, CONST),
        CLIENT("BytesInFlight", "t", bytes, 0),
        CLIENT("BytesInFlightLimit", "t", bytes_limit, CONST),
        CLIENT("PeersLimit", "u", peers_limit, CONST),
        CLIENT("HeldBack", "t", held_back, 0),
        SD_BUS_VTABLE_END,
};

/* ---- all of them ---- */

static int list_objects(sd_bus *sdbus, const char *prefix, void *data, char ***ret, sd_bus_error *error) {
        const struct bus *bus = data;
        const struct broker *broker = bus->broker;
        const struct connection *connection;
        unsigned n = 1 + broker->n_regions + broker->n_memories, at = 0;
        char **paths, path[64];

        DL_FOREACH (broker->connections, connection)
                n += bus_shows(connection);
        paths = calloc(n + 1, sizeof *paths);
        if (!paths)
                return -ENOMEM;
        paths[at++] = strdup(BUS_VM);
        for (unsigned i = 0; i < broker->n_regions; i++) {
                bus_region_path(&broker->regions[i], path);
                paths[at++] = strdup(path);
        }
        for (unsigned i = 0; i < broker->n_memories; i++)
                if (bus_shows_memory(broker->memories[i])) {
                        bus_source_path(broker->memories[i], path);
                        paths[at++] = strdup(path);
                }
        DL_FOREACH (broker->connections, connection)
                if (bus_shows(connection)) {
                        bus_client_path(connection, path);
                        paths[at++] = strdup(path);
                }
        *ret = paths; /* a hole in it ends the list early: better than nothing without memory */
        return 0;
}

int bus_add_objects(struct bus *bus) {
        static const struct {
                const char *path, *interface;
                const sd_bus_vtable *vtable;
                sd_bus_object_find_t find;
        } kinds[] = {
                { BUS_REGION, "org.pagebroker1.Region", region_vtable, find_region },
                { BUS_SOURCE, "org.pagebroker1.Source", source_vtable, find_source },
                { BUS_CLIENT, "org.pagebroker1.Client", client_vtable, find_client },
        };
        int r = sd_bus_add_node_enumerator(bus->bus, NULL, BUS_ROOT, list_objects, bus);

        for (size_t i = 0; i < ELEMENTS(kinds) && r >= 0; i++)
                r = sd_bus_add_fallback_vtable(bus->bus, NULL, kinds[i].path, kinds[i].interface, kinds[i].vtable, kinds[i].find,
                                               bus);
        return r;
}
