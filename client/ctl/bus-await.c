/* SPDX-License-Identifier: MIT */
/* Waiting for a broker to come. */
#include <errno.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "common/clock.h"
#include "common/macro.h"

#define MATCH "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0namespace='" BUS_PREFIX "'"

static int note_change(sd_bus_message *message UNUSED, void *data UNUSED, sd_bus_error *ret_error UNUSED) {
        return 0; /* that something came is enough: the list is read again */
}

static const struct broker *find_answering(const struct ctl *ctl, const struct brokers *brokers) {
        for (unsigned i = 0; i < brokers->n; i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                const struct broker *broker = &brokers->list[i];

                if (ctl->machine && strcmp(ctl->machine, broker->name) != 0)
                        continue;
                if (broker_call(broker, BUS_VM, "org.freedesktop.DBus.Peer", "Ping", &error, NULL, NULL) >= 0)
                        return broker;
        }
        return NULL;
}

static int wait_for_message(sd_bus *bus, uint64_t limit_us) {
        uint64_t now = clock_now_us();
        int r = sd_bus_process(bus, NULL);

        if (r != 0)
                return r;
        if (now >= limit_us)
                return 0;
        r = sd_bus_wait(bus, limit_us - now);
        return r == -EINTR ? 1 : r;
}

int broker_await(const struct ctl *ctl, struct brokers *brokers, uint64_t limit_us, const struct broker **ret) {
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *slot = NULL;
        int r = sd_bus_add_match(brokers->bus, &slot, MATCH, note_change, NULL);

        /* The match comes before the list, so that nobody who comes between them is missed. */
        while (r >= 0) {
                r = brokers_list(brokers);
                if (r < 0)
                        return r;
                *ret = find_answering(ctl, brokers);
                if (*ret)
                        return 1;
                if (clock_now_us() >= limit_us)
                        return 0;
                r = wait_for_message(brokers->bus, limit_us);
        }
        return r;
}
