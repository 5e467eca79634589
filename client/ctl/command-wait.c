/* SPDX-License-Identifier: MIT */
/* pagebrokerctl wait */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/socket.h"
#include "common/clock.h"

#define STEP_US (20 * USEC_PER_MSEC)

static int complain_late(const struct ctl *ctl, const char *where) {
        return complain(STATUS_NO_BROKER, "no broker %s after %g second%s", where, ctl->timeout_s,
                        ctl->timeout_s == 1 ? "" : "s");
}

static int here(const struct ctl *ctl, const char *key, const char *value) {
        if (ctl->json) {
                _cleanup_json_ json_object *object = json_new_object();

                json_set_text(object, key, value);
                json_print(object);
        }
        return STATUS_OK;
}

/* A socket announces nobody who binds it. */
static int wait_by_socket(const struct ctl *ctl, uint64_t limit_us) {
        const struct timespec step = clock_timespec(STEP_US);

        for (;;) {
                int r = socket_has_broker(ctl);

                if (r != 0)
                        return r < 0 ? STATUS_FAILURE : here(ctl, "socket", ctl->socket);
                if (clock_now_us() >= limit_us) {
                        _cleanup_free_ char *where = NULL;

                        if (asprintf(&where, "listens at %s", ctl->socket) < 0)
                                return STATUS_FAILURE;
                        return complain_late(ctl, where);
                }
                (void) nanosleep(&step, NULL);
        }
}

int command_wait(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        const uint64_t limit_us = clock_now_us() + (uint64_t) (ctl->timeout_s * (double) USEC_PER_SEC);
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_free_ char *where = NULL;
        const struct broker *broker;
        int status, r;

        if (ctl->socket)
                return wait_by_socket(ctl, limit_us);
        status = brokers_find(ctl, &brokers);
        if (status != STATUS_OK)
                return status;
        r = broker_await(ctl, &brokers, limit_us, &broker);
        if (r < 0)
                return complain(STATUS_FAILURE, "waiting on %s: %s", brokers.bus_name, strerror(-r));
        if (r > 0)
                return here(ctl, "name", broker->name);
        if (asprintf(&where, "%s%s%shas come to %s", ctl->machine ? "of " : "", ctl->machine ?: "",
                     ctl->machine ? " " : "", brokers.bus_name) < 0)
                return STATUS_FAILURE;
        return complain_late(ctl, where);
}
