/* SPDX-License-Identifier: MIT */
/* pagebrokerctl status */
#include <stdio.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/socket.h"
#include "client/ctl/status-text.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

static int status_by_socket(const struct ctl *ctl) {
        _cleanup_json_ json_object *vm = NULL;
        pb_client *client = NULL;
        int status;

        status = socket_connect(ctl, PB_ROLE_OBSERVER, &client);
        if (status != STATUS_OK)
                return status;
        status = socket_read(client, &vm);
        client = pb_disconnect(client);
        if (status != STATUS_OK)
                return status;
        if (ctl->json)
                json_print(vm);
        else
                status_print(vm);
        return STATUS_OK;
}

static void print_regions(const struct view *view) {
        _cleanup_(table_done) struct table table = TABLE("REGION", ">SIZE", ">PRESENT", ">POISONED", "MEMORY", "FROM");

        for (unsigned i = 0; i < json_length(view->regions); i++) {
                const json_object *region = json_object_array_get_idx(view->regions, i);
                const json_object *source =
                        json_object_array_get_idx(view->sources, (size_t) json_u64(region, "memory_index"));

                table_add(&table, "0x%" PRIx64, json_u64(region, "address"));
                table_add(&table, "%s", text_size(json_u64(region, "size")).s);
                table_add(&table, "%s",
                          text_percent(json_u64(region, "pages_present"), json_u64(region, "pages_total")).s);
                table_add(&table, "%" PRIu64, json_u64(region, "pages_poisoned"));
                table_add(&table, "%s", text_safe(json_text(region, "memory")).s);
                table_add(&table, "%s%s", text_safe(json_text(source, "address")).s,
                          json_is(source, "lost") ? " (lost)" : "");
        }
        (void) putchar('\n');
        table_print(&table);
}

int command_status(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_view_ struct view view = {};
        const struct broker *broker;
        int status;

        if (ctl->socket)
                return status_by_socket(ctl);
        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        status = view_read(broker, &view);
        if (status != STATUS_OK)
                return status;
        if (ctl->json) {
                _cleanup_json_ json_object *object = view_to_json(&view);

                json_print(object);
        } else {
                status_print(view.vm);
                print_regions(&view);
        }
        return STATUS_OK;
}
