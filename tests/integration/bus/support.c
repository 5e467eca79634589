/* SPDX-License-Identifier: MIT */
#include "tests/integration/bus/support.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

void scene_start(struct scene *ret, const char *const args[]) {
        const char *all[32] = {};
        unsigned n = 0;

        test_bus_start(&ret->bus);
        all[n++] = ret->bus.option;
        while (*args && n < 31)
                all[n++] = *args++;
        test_broker_start(&ret->broker, &(struct test_broker_options) { .args = all });
        ret->us = test_bus_connect(&ret->bus);
        cr_assert(test_bus_has(ret->us, SERVICE));
}

void scene_stop(struct scene *scene) {
        scene->us = test_bus_disconnect(scene->us);
        test_broker_stop(&scene->broker);
        test_bus_stop(&scene->bus);
}

static sd_bus_message *get_property(sd_bus *us, const char *path, const char *interface, const char *property) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        int r = sd_bus_call_method(us, SERVICE, path, "org.freedesktop.DBus.Properties", "Get", &error, &reply, "ss", interface,
                                   property);

        cr_assert(r >= 0, "%s %s: %s", path, property, error.message);
        return reply;
}

uint64_t get_number(sd_bus *us, const char *path, const char *interface, const char *property) {
        sd_bus_message *reply = get_property(us, path, interface, property);
        const char *type;
        uint64_t value = 0;
        uint32_t small = 0;
        int flag = 0;

        cr_assert(sd_bus_message_peek_type(reply, NULL, &type) > 0);
        if (*type == 't')
                cr_assert(sd_bus_message_read(reply, "v", "t", &value) >= 0);
        else if (*type == 'b')
                cr_assert(sd_bus_message_read(reply, "v", "b", &flag) >= 0);
        else
                cr_assert(sd_bus_message_read(reply, "v", "u", &small) >= 0, "%s is a %s", property, type);
        (void) sd_bus_message_unref(reply);
        return value + small + (uint64_t) flag;
}

double get_double(sd_bus *us, const char *path, const char *interface, const char *property) {
        sd_bus_message *reply = get_property(us, path, interface, property);
        double value = -1;

        cr_assert(sd_bus_message_read(reply, "v", "d", &value) >= 0);
        (void) sd_bus_message_unref(reply);
        return value;
}

char *get_string(sd_bus *us, const char *path, const char *interface, const char *property) {
        sd_bus_message *reply = get_property(us, path, interface, property);
        const char *value = NULL;
        char *copy;

        cr_assert(sd_bus_message_read(reply, "v", "s", &value) >= 0);
        copy = strdup(value);
        (void) sd_bus_message_unref(reply);
        return copy;
}

bool string_is(sd_bus *us, const char *path, const char *interface, const char *property, const char *value) {
        _cleanup_free_ char *is = get_string(us, path, interface, property);

        return strcmp(is, value) == 0;
}

static int call_v(sd_bus *us, const char *method, sd_bus_error *error, sd_bus_message **reply, const char *types,
                  va_list args) {
        sd_bus_message *message = NULL;
        int r = sd_bus_message_new_method_call(us, &message, SERVICE, VM, VM_INTERFACE, method);

        if (r >= 0 && *types)
                r = sd_bus_message_appendv(message, types, args);
        if (r >= 0)
                r = sd_bus_call(us, message, 0, error, reply);
        (void) sd_bus_message_unref(message);
        return r;
}

sd_bus_message *call(sd_bus *us, const char *method, const char *types, ...) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        va_list args;
        int r;

        va_start(args, types);
        r = call_v(us, method, &error, &reply, types, args);
        va_end(args);
        cr_assert(r >= 0, "%s: %s: %s", method, error.name, error.message);
        return reply;
}

bool call_fails(sd_bus *us, const char *name, const char *method, const char *types, ...) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        va_list args;
        int r;

        va_start(args, types);
        r = call_v(us, method, &error, &reply, types, args);
        va_end(args);
        (void) sd_bus_message_unref(reply);
        if (r >= 0 || !error.name || strcmp(error.name, name) != 0)
                fprintf(stderr, "%s: %s: %s\n", method, r >= 0 ? "no error" : error.name, error.message ?: "");
        return r < 0 && error.name && strcmp(error.name, name) == 0;
}

static unsigned list_clients(sd_bus *us, char ret[64]) {
        sd_bus_message *reply = NULL;
        const char *path;
        unsigned n = 0;

        cr_assert(sd_bus_call_method(us, SERVICE, "/org/pagebroker1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects",
                                     NULL, &reply, "") >= 0);
        cr_assert(sd_bus_message_enter_container(reply, 'a', "{oa{sa{sv}}}") >= 0);
        while (sd_bus_message_enter_container(reply, 'e', "oa{sa{sv}}") > 0) {
                cr_assert(sd_bus_message_read(reply, "o", &path) >= 0);
                if (strncmp(path, "/org/pagebroker1/client/", 24) == 0) {
                        (void) snprintf(ret, 64, "%s", path);
                        n++;
                }
                cr_assert(sd_bus_message_skip(reply, "a{sa{sv}}") >= 0);
                cr_assert(sd_bus_message_exit_container(reply) >= 0);
        }
        (void) sd_bus_message_unref(reply);
        return n;
}

unsigned count_clients(sd_bus *us) {
        char path[64];

        return list_clients(us, path);
}

bool find_client(sd_bus *us, char ret[64]) {
        return EVENTUALLY(list_clients(us, ret) == 1);
}

unsigned get_stuck(sd_bus *us, struct stuck_row *ret, unsigned max, uint32_t *ret_total) {
        sd_bus_message *reply = call(us, "GetStuck", "tu", (uint64_t) 0, (uint32_t) max);
        unsigned n = 0;

        cr_assert(sd_bus_message_enter_container(reply, 'a', "(tsssttttsus)") >= 0);
        while (n < max) {
                const char *name, *class, *memory, *why, *reason;
                struct stuck_row *row = &ret[n];
                int r = sd_bus_message_read(reply, "(tsssttttsus)", &row->client, &name, &class, &memory, &row->page, &row->gpa,
                                            &row->since_us, &row->waited_us, &why, &row->tries, &reason);

                cr_assert(r >= 0);
                if (r == 0)
                        break;
                (void) snprintf(row->name, sizeof row->name, "%s", name);
                (void) snprintf(row->class, sizeof row->class, "%s", class);
                (void) snprintf(row->memory, sizeof row->memory, "%s", memory);
                (void) snprintf(row->why, sizeof row->why, "%s", why);
                (void) snprintf(row->reason, sizeof row->reason, "%s", reason);
                n++;
        }
        cr_assert(sd_bus_message_exit_container(reply) >= 0);
        cr_assert(sd_bus_message_read(reply, "u", ret_total) >= 0);
        (void) sd_bus_message_unref(reply);
        return n;
}

struct latency_row get_latency(sd_bus *us, const char *path, const char *interface, const char *class) {
        sd_bus_message *reply = get_property(us, path, interface, "Latency");
        struct latency_row row, found = {};
        const char *name;

        cr_assert(sd_bus_message_enter_container(reply, 'v', "a(sttttt)") >= 0);
        cr_assert(sd_bus_message_enter_container(reply, 'a', "(sttttt)") >= 0);
        while (sd_bus_message_read(reply, "(sttttt)", &name, &row.count, &row.p50_ns, &row.p99_ns, &row.max_ns, &row.sum_ns) > 0)
                if (strcmp(name, class) == 0)
                        found = row;
        (void) sd_bus_message_unref(reply);
        return found;
}

/* ---- signals ---- */

static int on_signal(sd_bus_message *message, void *data, sd_bus_error *error) {
        struct listener *listener = data;

        listener->n++;
        (void) sd_bus_message_unref(listener->last);
        listener->last = sd_bus_message_ref(message);
        return 0;
}

void listen_for(struct listener *ret, sd_bus *us, const char *member) {
        *ret = (struct listener) { .us = us };
        cr_assert(sd_bus_match_signal(us, &ret->slot, SERVICE, NULL, NULL, member, on_signal, ret) >= 0);
}

bool heard(struct listener *listener, unsigned n) {
        while (listener->n < n && sd_bus_process(listener->us, NULL) > 0)
                ;
        return listener->n >= n;
}

void listen_done(struct listener *listener) {
        (void) sd_bus_message_unref(listener->last);
        (void) sd_bus_slot_unref(listener->slot);
}

bool is_process(sd_bus *us, pid_t pid) {
        uint32_t is = 0;

        return sd_bus_get_property_trivial(us, SERVICE, VM, VM_INTERFACE, "ProcessID", NULL, 'u', &is) >= 0 &&
               is == (uint32_t) pid;
}
