/* SPDX-License-Identifier: MIT */
#include "client/ctl/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/decode.h"
#include "client/ctl/text.h"

#define ARGUMENTS_MAX 6

static void print_completed(const json_object *event UNUSED) {
        (void) puts("everything is here");
}

static void print_page_error(const json_object *event) {
        uint64_t left_out = json_u64(event, "left_out");

        (void) printf(COUNTED_FORMAT " of %s from page %" PRIu64 " on cannot be had from %s: %s",
                      COUNTED(json_u64(event, "n_pages"), "page"), text_safe(json_text(event, "memory")).s,
                      json_u64(event, "page"), text_safe(json_text(event, "source")).s,
                      text_safe(json_text(event, "reason")).s);
        if (left_out > 0)
                (void) printf(" (" COUNTED_FORMAT " before it not shown)", COUNTED(left_out, "such message"));
        (void) putchar('\n');
}

static void print_source_lost(const json_object *event) {
        (void) printf("the source of %s is lost, absent pages cannot be had: %s: %s\n",
                      text_safe(json_text(event, "memory")).s, text_safe(json_text(event, "source")).s,
                      text_safe(json_text(event, "reason")).s);
}

static void print_memory_added(const json_object *event) {
        (void) printf("%s of %s has been plugged in\n", text_safe(json_text(event, "memory")).s,
                      text_size(json_u64(event, "size")).s);
}

static void print_memory_removed(const json_object *event) {
        (void) printf("%s has left\n", text_safe(json_text(event, "memory")).s);
}

static void print_connected(const json_object *event) {
        (void) printf("client %" PRIu64 " has come: %s, %s, process %" PRIu64 ", user %" PRIu64 "\n",
                      json_u64(event, "client"), text_safe(json_text(event, "name")).s,
                      text_safe(json_text(event, "role")).s, json_u64(event, "pid"), json_u64(event, "uid"));
}

static void print_disconnected(const json_object *event) {
        (void) printf("client %" PRIu64 " has left: %s\n", json_u64(event, "client"),
                      text_safe(json_text(event, "name")).s);
}

/* In the order of the signals' arguments. */
static const struct {
        const char *member, *name;
        const char *arguments[ARGUMENTS_MAX + 1];
        void (*print)(const json_object *event);
} kinds[] = {
        { "Completed", "completed", {}, print_completed },
        { "PageError",
          "page_error",
          { "memory", "page", "n_pages", "source", "reason", "left_out" },
          print_page_error },
        { "SourceLost", "source_lost", { "memory", "source", "reason" }, print_source_lost },
        { "MemoryAdded", "memory_added", { "memory", "index", "size" }, print_memory_added },
        { "MemoryRemoved", "memory_removed", { "memory", "index" }, print_memory_removed },
        { "ClientConnected", "client_connected", { "client", "name", "role", "pid", "uid" }, print_connected },
        { "ClientDisconnected", "client_disconnected", { "client", "name" }, print_disconnected },
};

static int take_event(sd_bus_message *message, void *data, sd_bus_error *ret_error UNUSED) {
        struct events *events = data;
        const char *member = sd_bus_message_get_member(message);

        for (unsigned i = 0; member && i < ELEMENTS(kinds); i++) {
                _cleanup_json_ json_object *event = NULL;

                if (strcmp(member, kinds[i].member) != 0)
                        continue;
                event = json_new_object();
                json_set_text(event, "event", kinds[i].name);
                for (unsigned k = 0; kinds[i].arguments[k]; k++) {
                        json_object *value;

                        if (decode_value(message, &value) < 0)
                                return 0;
                        json_set(event, kinds[i].arguments[k], value);
                }
                if (events->json)
                        json_print(event);
                else
                        kinds[i].print(event);
                if (strcmp(member, "Completed") == 0)
                        events->has_news = true;
        }
        return 0;
}

int events_subscribe(struct events *events, sd_bus_slot **ret) {
        return sd_bus_match_signal(events->broker->bus, ret, events->broker->service, BUS_VM, BUS_PREFIX ".VM", NULL,
                                   take_event, events);
}
