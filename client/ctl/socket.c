/* SPDX-License-Identifier: MIT */
#include "client/ctl/socket.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"

static int connect_as(const struct ctl *ctl, uint32_t role, pb_client **ret) {
        const struct pb_options options = { .size = sizeof options, .role = role, .name = "pagebrokerctl" };

        return pb_connect(ret, ctl->socket, &options);
}

int socket_connect(const struct ctl *ctl, uint32_t role, pb_client **ret) {
        const char *name = role == PB_ROLE_VMM ? "vmm" : "observer";
        int r = connect_as(ctl, role, ret);

        /* connect(2) says the same of a socket that we may not write to. */
        if (r == -EACCES && access(ctl->socket, W_OK) < 0)
                return complain(STATUS_NOT_ALLOWED, "%s: %s", ctl->socket, strerror(-r));
        if (r == -EACCES)
                return complain(STATUS_NOT_ALLOWED,
                                "the broker at %s does not grant you the role %s (pagebrokerd --allow=%s:UID)",
                                ctl->socket, name, name);
        if (r == -ENOENT || r == -ECONNREFUSED)
                return complain(STATUS_NO_BROKER, "no broker listens at %s", ctl->socket);
        if (r < 0)
                return complain(STATUS_FAILURE, "%s: %s", ctl->socket, strerror(-r));
        return STATUS_OK;
}

static const struct {
        const char *name;
        size_t offset;
} counters[] = {
#define COUNTER(field) \
        { #field, offsetof(struct pb_stats, field) }
        COUNTER(pages_total),    COUNTER(pages_data),      COUNTER(pages_present), COUNTER(pages_data_present),
        COUNTER(pages_poisoned), COUNTER(pages_in_flight), COUNTER(faults_linked), COUNTER(faults_peer),
        COUNTER(bytes_fetched),  COUNTER(clients),         COUNTER(peers),         COUNTER(sources_lost),
        COUNTER(pages_left_out),
#undef COUNTER
};

int socket_read(pb_client *client, json_object **ret) {
        struct pb_stats stats = { .size = sizeof stats };
        json_object *object;
        int r = pb_get_stats(client, &stats);

        if (r < 0)
                return complain(STATUS_FAILURE, "reading the counters: %s", strerror(-r));
        object = json_new_object();
        for (size_t i = 0; i < ELEMENTS(counters); i++) {
                uint64_t value;

                memcpy(&value, (const char *) &stats + counters[i].offset, sizeof value);
                json_set_u64(object, counters[i].name, value);
        }
        json_set_bool(object, "complete", stats.complete);
        json_set_bool(object, "fill", stats.fill);
        *ret = object;
        return STATUS_OK;
}

int socket_set_fill(const struct ctl *ctl, bool on) {
        pb_client *client = NULL;
        int status, r;

        status = socket_connect(ctl, PB_ROLE_VMM, &client);
        if (status != STATUS_OK)
                return status;
        r = pb_set_fill(client, on);
        client = pb_disconnect(client);
        return r < 0 ? complain(STATUS_FAILURE, "switching the fill: %s", strerror(-r)) : STATUS_OK;
}

int socket_heal(const struct ctl *ctl, uint64_t gpa, uint64_t size, uint64_t *ret_healed) {
        pb_client *client = NULL;
        int status, r;

        status = socket_connect(ctl, PB_ROLE_VMM, &client);
        if (status != STATUS_OK)
                return status;
        r = pb_heal(client, gpa, size, ret_healed);
        if (r < 0)
                status = complain(STATUS_FAILURE, "heal: %s", pb_explain(client));
        client = pb_disconnect(client);
        return status;
}

int socket_has_broker(const struct ctl *ctl) {
        pb_client *client = NULL;
        int r = connect_as(ctl, PB_ROLE_OBSERVER, &client);

        client = pb_disconnect(client);
        /* A broker that refuses the role has answered. connect(2) has the same error for a socket that we may not
         * write to. */
        if (r == 0 || (r == -EACCES && access(ctl->socket, W_OK) == 0))
                return 1;
        if (r == -ENOENT || r == -ECONNREFUSED)
                return 0;
        (void) complain(STATUS_FAILURE, "%s: %s", ctl->socket, strerror(-r));
        return r;
}
