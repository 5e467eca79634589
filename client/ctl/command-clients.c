/* SPDX-License-Identifier: MIT */
/* pagebrokerctl clients */
#include <stdio.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

static void add_waiting(struct table *table, const json_object *client) {
        if (json_u64(client, "waiting") == 0)
                table_add(table, "%s", "-");
        else
                table_add(table, COUNTED_FORMAT ", the oldest %s for page %" PRIu64 " of %s",
                          COUNTED(json_u64(client, "waiting"), "wait"), text_duration(json_u64(client, "waiting_us")).s,
                          json_u64(client, "waiting_page"), text_safe(json_text(client, "waiting_memory")).s);
}

/* Against its limits: who is at one is slowed, and nobody else. */
static void add_usage(struct table *table, const json_object *client) {
        if (json_u64(client, "requests_limit") > 0)
                table_add(table, "%" PRIu64 " of %" PRIu64, json_u64(client, "requests"),
                          json_u64(client, "requests_limit"));
        else
                table_add(table, "%" PRIu64, json_u64(client, "requests"));
        table_add(table, "%" PRIu64, json_u64(client, "held_back"));
}

static void print_table(const json_object *clients) {
        _cleanup_(table_done) struct table table =
                TABLE(">ID", "NAME", "ROLE", ">PID", ">UID", ">UFFDS", ">VCPU FAULTS", ">DEVICE FAULTS", ">PREFETCHES",
                      ">REQUESTS", ">HELD BACK", "WAITS NOW");

        for (unsigned i = 0; i < json_length(clients); i++) {
                const json_object *client = json_object_array_get_idx(clients, i);

                table_add(&table, "%" PRIu64, json_u64(client, "id"));
                table_add(&table, "%s%s", text_safe(json_text(client, "name")).s,
                          json_is(client, "connected") ? "" : " (gone, userfaultfds served)");
                table_add(&table, "%s", text_safe(json_text(client, "role")).s);
                table_add(&table, "%" PRIu64, json_u64(client, "process_id"));
                table_add(&table, "%" PRIu64, json_u64(client, "user_id"));
                table_add(&table, "%" PRIu64, json_u64(client, "peers"));
                table_add(&table, "%" PRIu64, json_u64(client, "faults_vcpu"));
                table_add(&table, "%" PRIu64, json_u64(client, "faults_device"));
                table_add(&table, "%" PRIu64, json_u64(client, "prefetches"));
                add_usage(&table, client);
                add_waiting(&table, client);
        }
        table_print(&table);
}

int command_clients(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_view_ struct view view = {};
        const struct broker *broker;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        status = view_read(broker, &view);
        if (status != STATUS_OK)
                return status;
        if (ctl->json) {
                _cleanup_json_ json_object *object = json_new_object();

                json_set_text(object, "name", json_text(view.vm, "name"));
                json_set(object, "clients", json_object_get(view.clients));
                json_print(object);
        } else if (json_length(view.clients) == 0)
                (void) printf("nobody is connected to the broker of %s\n", broker->name);
        else
                print_table(view.clients);
        return STATUS_OK;
}
