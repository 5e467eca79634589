/* SPDX-License-Identifier: MIT */
/* Methods that look and change nothing. */
#include <errno.h>
#include <stdlib.h>

#include "broker/audit.h"
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

#define NO_ADDRESS UINT64_MAX

static uint64_t address_of(const struct broker *broker, const struct memory *memory, uint64_t page) {
        uint64_t offset = page * PB_PAGE_BYTES;

        for (unsigned i = 0; i < broker->n_regions; i++) {
                const struct region *region = &broker->regions[i];

                if (region->memory == memory->index && offset - region->offset < region->size)
                        return region->gpa + (offset - region->offset);
        }
        return NO_ADDRESS;
}

static int append_stuck(sd_bus_message *reply, const struct broker *broker, const struct stuck *stuck) {
        return sd_bus_message_append(reply, "(tsssttttsus)", stuck->connection->id, stuck->connection->name,
                                     stuck->class == CLASS_VCPU ? "vcpu" : "device", stuck->memory->name, stuck->page,
                                     address_of(broker, stuck->memory, stuck->page), bus_time_of_day(stuck->since_ns),
                                     (clock_now_ns() - stuck->since_ns) / NSEC_PER_USEC, stuck_why_name(stuck->why),
                                     stuck->tries, stuck->error < 0 ? source_error_text(stuck->error) : "");
}

int bus_get_stuck(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_free_ struct stuck *stuck = NULL;
        struct broker *broker = view->broker;
        uint64_t min_us, total;
        uint32_t limit;
        unsigned n;
        int r = sd_bus_message_read(message, "tu", &min_us, &limit);

        if (r < 0)
                return r;
        if (limit == 0 || limit > STUCK_MAX)
                limit = STUCK_MAX;
        stuck = calloc(limit, sizeof *stuck);
        if (!stuck)
                return -ENOMEM;
        n = stuck_collect(broker, NULL, min_us, stuck, limit, &total);
        r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(tsssttttsus)");
        for (unsigned i = 0; i < n && r >= 0; i++)
                r = append_stuck(reply, broker, &stuck[i]);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "u", (uint32_t) min_u64(total, UINT32_MAX));
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

int bus_get_map(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_free_ struct picture_bin *bins = NULL;
        const struct memory *memory;
        uint64_t first, n, per_bin;
        uint32_t index, n_bins;
        int r = sd_bus_message_read(message, "uttu", &index, &first, &n, &n_bins);

        if (r < 0)
                return r;
        memory = bus_get_memory(view->broker, index);
        if (!memory)
                return sd_bus_error_setf(error, BUS_ERROR_NO_SUCH_MEMORY, "there is no memory %u", index);
        if (n == 0 && first < memory->n_pages)
                n = memory->n_pages - first;
        if (n == 0 || !range_fits(first, n, memory->n_pages) || n_bins == 0 || n_bins > PICTURE_BINS_MAX)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE,
                                         "the memory has %llu pages, and a picture 1 to %u bins",
                                         (unsigned long long) memory->n_pages, PICTURE_BINS_MAX);
        per_bin = (n - 1) / n_bins + 1;
        if (n > PICTURE_PAGES_MAX)
                n = max_u64(PICTURE_PAGES_MAX / per_bin, 1) * per_bin;
        if (n > PICTURE_PAGES_MAX || !range_fits(first, n, memory->n_pages))
                return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE, "one bin would have more than %llu pages",
                                         PICTURE_PAGES_MAX);
        n_bins = (uint32_t) ((n - 1) / per_bin + 1);
        bins = calloc(n_bins, sizeof *bins);
        if (!bins)
                return -ENOMEM;
        picture_count(view->broker->pager, memory, first, n, per_bin, bins);
        r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "t", per_bin);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(tttttt)");
        for (unsigned i = 0; i < n_bins && r >= 0; i++)
                r = sd_bus_message_append(reply, "(tttttt)", bins[i].present, bins[i].absent, bins[i].in_flight,
                                          bins[i].poisoned, bins[i].zero_present, bins[i].zero_absent);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int append_finding(void *data, const char *what, const char *text) {
        return sd_bus_message_append(data, "(ss)", what, text);
}

int bus_audit(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        struct audit_sums sums = {};
        int r = sd_bus_message_new_method_return(message, &reply);

        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(ss)");
        for (unsigned i = 0; i < view->broker->n_memories && r >= 0; i++)
                if (bus_shows_memory(view->broker->memories[i]))
                        r = audit_memory(view->broker->memories[i], append_finding, reply, &sums);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "tt", sums.pages, sums.slices);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}
