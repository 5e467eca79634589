/* SPDX-License-Identifier: MIT */
/* Methods that change something. sd-bus has found the caller to be root or our own user. */
#include <errno.h>
#include <inttypes.h>
#include <utlist.h>

#include "broker/bus/bus-internal.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "common/macro.h"

static int set_no_room(sd_bus_error *error) {
        return sd_bus_error_setf(error, SD_BUS_ERROR_LIMITS_EXCEEDED, "%u ranges are being prefetched already",
                                 PAGER_PREFETCHES_MAX);
}

static int set_bad_range(sd_bus_error *error, const struct memory *memory) {
        return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE, "memory %s has %llu pages", memory->name,
                                 (unsigned long long) memory->n_pages);
}

static int set_no_memory(sd_bus_error *error, uint32_t index) {
        return sd_bus_error_setf(error, BUS_ERROR_NO_SUCH_MEMORY, "there is no memory %u", index);
}

int bus_prefetch(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        struct memory *memory;
        uint64_t first, n;
        uint32_t index;
        int r = sd_bus_message_read(message, "utt", &index, &first, &n);

        if (r < 0)
                return r;
        memory = bus_get_memory(view->broker, index);
        if (!memory)
                return set_no_memory(error, index);
        if (n == 0 || !range_fits(first, n, memory->n_pages))
                return set_bad_range(error, memory);
        if (!pager_prefetch(view->broker->pager, memory, first, n))
                return set_no_room(error);
        return sd_bus_reply_method_return(message, "");
}

int bus_prefetch_guest(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        const struct broker *broker = view->broker;
        uint64_t address, size, end;
        bool any = false;
        int r = sd_bus_message_read(message, "tt", &address, &size);

        if (r < 0)
                return r;
        if (size == 0 || __builtin_add_overflow(address, size, &end))
                return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE, "no such range of addresses");
        for (unsigned i = 0; i < broker->n_regions; i++) {
                const struct region *region = &broker->regions[i];
                uint64_t from = max_u64(address, region->gpa), to = min_u64(end, region->gpa + region->size);
                uint64_t first, last;

                if (from >= to || !bus_get_memory(broker, region->memory))
                        continue;
                first = (region->offset + (from - region->gpa)) / PB_PAGE_BYTES;
                last = (region->offset + (to - 1 - region->gpa)) / PB_PAGE_BYTES;
                if (!pager_prefetch(broker->pager, broker->memories[region->memory], first, last - first + 1))
                        return set_no_room(error);
                any = true;
        }
        if (!any)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE, "nothing of it lies in a region");
        return sd_bus_reply_method_return(message, "");
}

int bus_set_fill(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        uint64_t rate;
        int on, r = sd_bus_message_read(message, "bt", &on, &rate);

        if (r < 0)
                return r;
        if (pager_is_complete(view->broker->pager))
                return sd_bus_error_setf(error, BUS_ERROR_COMPLETE, "all pages are present; there is nothing to fill");
        broker_set_fill(view->broker, on, rate, NULL);
        return sd_bus_reply_method_return(message, "");
}

int bus_heal(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        uint64_t first, n, healed = 0;
        uint32_t index;
        int r = sd_bus_message_read(message, "utt", &index, &first, &n);

        if (r < 0)
                return r;
        if (!bus_get_memory(view->broker, index))
                return set_no_memory(error, index);
        r = broker_heal(view->broker, index, first, n, &healed);
        if (r == -ENOENT)
                return set_no_memory(error, index);
        if (r == -EINVAL)
                return set_bad_range(error, view->broker->memories[index]);
        if (r < 0)
                return sd_bus_error_setf(error, BUS_ERROR_SOURCE, "source %s: %s",
                                         view->broker->memories[index]->source->name, source_error_text(r));
        bus_tell_changes(view->broker->bus);
        return sd_bus_reply_method_return(message, "t", healed);
}

int bus_disconnect_client(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        struct connection *connection;
        uint64_t id;
        int r = sd_bus_message_read(message, "t", &id);

        if (r < 0)
                return r;
        DL_FOREACH (view->broker->connections, connection)
                if (connection->id == id && bus_shows(connection) && connection->fd >= 0) {
                        connection_hang_up(connection, -ECONNRESET, "was disconnected on the admin's order (D-Bus)");
                        return sd_bus_reply_method_return(message, "");
                }
        return sd_bus_error_setf(error, BUS_ERROR_NO_SUCH_CLIENT, "there is no client %" PRIu64 " that is connected", id);
}
