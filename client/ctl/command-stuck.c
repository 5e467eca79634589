/* SPDX-License-Identifier: MIT */
/* pagebrokerctl stuck */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"

/* The answer's rows, in its order. */
static const char *const columns[] = { "client", "name",       "class", "memory", "page",  "address",
                                       "since",  "waiting_us", "why",   "tries",  "reason" };

/* From rows to objects: programs should not count commas. */
static json_object *name_columns(const json_object *rows) {
        json_object *waits = json_new_array();

        for (unsigned i = 0; i < json_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i), *wait = json_new_object();

                for (unsigned k = 0; k < ELEMENTS(columns) && k < json_length(row); k++)
                        json_set(wait, columns[k], json_object_get(json_object_array_get_idx(row, k)));
                if (json_u64(wait, "address") == UINT64_MAX)
                        json_set(wait, "address", NULL);
                if (json_object_array_add(waits, wait) < 0)
                        abort();
        }
        return waits;
}

static void print_table(const json_object *waits) {
        _cleanup_(table_done) struct table table = TABLE(">WAITS", "CLIENT", "CLASS", "PAGE", "ADDRESS", "WHY");

        for (unsigned i = 0; i < json_length(waits); i++) {
                const json_object *wait = json_object_array_get_idx(waits, i);
                uint64_t tries = json_u64(wait, "tries");

                table_add(&table, "%s", text_duration(json_u64(wait, "waiting_us")).s);
                table_add(&table, "%s (%" PRIu64 ")", text_safe(json_text(wait, "name")).s, json_u64(wait, "client"));
                table_add(&table, "%s", text_safe(json_text(wait, "class")).s);
                table_add(&table, "%" PRIu64 " of %s", json_u64(wait, "page"), text_safe(json_text(wait, "memory")).s);
                if (json_get(wait, "address"))
                        table_add(&table, "0x%" PRIx64, json_u64(wait, "address"));
                else
                        table_add(&table, "%s", "in no region");
                if (tries > 0)
                        table_add(&table, "%s, " COUNTED_FORMAT "%s%s", text_safe(json_text(wait, "why")).s, tries,
                                  "failed tr", tries == 1 ? "y" : "ies", *json_text(wait, "reason") ? ": " : "",
                                  text_safe(json_text(wait, "reason")).s);
                else
                        table_add(&table, "%s%s%s", text_safe(json_text(wait, "why")).s,
                                  *json_text(wait, "reason") ? ": " : "", text_safe(json_text(wait, "reason")).s);
        }
        table_print(&table);
}

int command_stuck(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_json_ json_object *reply = NULL, *object = json_new_object();
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        json_object *waits;
        uint64_t total;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        status = broker_ask(broker, "stuck", "GetStuck", &reply, "tu", (uint64_t) 0, (uint32_t) 0);
        if (status != STATUS_OK)
                return status;
        if (json_length(reply) != 2 || !json_object_is_type(json_object_array_get_idx(reply, 0), json_type_array))
                return complain(STATUS_FAILURE, "stuck: the broker of %s answers something else", broker->name);
        waits = name_columns(json_object_array_get_idx(reply, 0));
        total = json_object_get_uint64(json_object_array_get_idx(reply, 1));
        json_set_text(object, "name", broker->name);
        json_set(object, "waits", waits);
        json_set_u64(object, "total", total);
        if (ctl->json)
                json_print(object);
        else if (json_length(waits) == 0)
                (void) printf("nobody waits for a page of %s\n", broker->name);
        else
                print_table(waits);
        if (!ctl->json && total > json_length(waits))
                (void) printf("... and %" PRIu64 " more that wait less long\n", total - json_length(waits));
        return STATUS_OK;
}
