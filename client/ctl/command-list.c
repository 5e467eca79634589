/* SPDX-License-Identifier: MIT */
/* pagebrokerctl list */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

#define ANSWER_LIMIT_US (5 * 1000000ull)

static json_object *describe_silent(const struct broker *broker, const char *why) {
        json_object *object = json_new_object();

        json_set_text(object, "name", broker->name);
        json_set_text(object, "error", why);
        return object;
}

static void add_row(struct table *table, const struct broker *broker, const json_object *vm) {
        table_add(table, "%s", text_safe(broker->name).s);
        table_add(table, "%s", text_safe(json_text(vm, "state")).s);
        table_add(table, "%s", text_size(json_u64(vm, "pages_total") * 4096).s);
        table_add(table, "%s", text_percent(json_u64(vm, "pages_present"), json_u64(vm, "pages_total")).s);
        table_add(table, "%" PRIu64, json_u64(vm, "clients"));
        table_add(table, "%" PRIu64, json_u64(vm, "process_id"));
        table_add(table, "%s", text_safe(json_text(vm, "version")).s);
}

static void add_silent_row(struct table *table, const struct broker *broker) {
        table_add(table, "%s", text_safe(broker->name).s);
        table_add(table, "%s", "does not answer");
        for (unsigned i = 2; i < table->n_columns; i++)
                table_add(table, "%s", "-");
}

int command_list(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_(table_done) struct table table =
                TABLE("NAME", "STATE", ">MEMORY", ">PRESENT", ">CLIENTS", ">PID", "VERSION");
        _cleanup_brokers_ struct brokers brokers = {};
        struct view_answer *answers;
        int status = brokers_find(ctl, &brokers);

        if (status != STATUS_OK)
                return status;
        if (brokers.n == 0)
                return broker_complain_none(brokers.bus_name);
        answers = calloc(brokers.n, sizeof *answers);
        if (!answers)
                return complain(STATUS_FAILURE, "out of memory");
        views_read(brokers.bus, brokers.list, brokers.n, ANSWER_LIMIT_US, answers);
        for (unsigned i = 0; i < brokers.n; i++) {
                _cleanup_json_ json_object *object = NULL;

                if (answers[i].r < 0 && ctl->json)
                        object = describe_silent(&brokers.list[i], answers[i].error);
                else if (answers[i].r < 0)
                        add_silent_row(&table, &brokers.list[i]);
                else if (ctl->json)
                        object = view_to_json(&answers[i].view);
                else
                        add_row(&table, &brokers.list[i], answers[i].view.vm);
                if (object)
                        json_print(object);
                view_answer_done(&answers[i]);
        }
        free(answers);
        if (!ctl->json)
                table_print(&table);
        return STATUS_OK;
}
