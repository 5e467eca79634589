/* SPDX-License-Identifier: MIT */
#include "client/ctl/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "common/clock.h"

void view_done(struct view *view) {
        json_freep(&view->vm);
        json_freep(&view->regions);
        json_freep(&view->sources);
        json_freep(&view->clients);
        *view = (struct view) {};
}

static uint64_t now_realtime_us(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / NSEC_PER_USEC;
}

/* [["vcpu", 3, ...], ...] -> {"vcpu": {"number": 3, ...}, ...} */
static void name_latencies(json_object *object) {
        static const char *const names[] = { "number", "p50_ns", "p99_ns", "max_ns", "sum_ns" };
        json_object *rows = json_get(object, "latency"), *named = json_new_object();

        for (unsigned i = 0; i < json_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i), *class = json_new_object();

                for (unsigned k = 0; k < ELEMENTS(names) && k + 1 < json_length(row); k++)
                        json_set(class, names[k], json_object_get(json_object_array_get_idx(row, k + 1)));
                json_set(named, json_object_get_string(json_object_array_get_idx(row, 0)) ?: "", class);
        }
        json_set(object, "latency", named);
}

/* What a reader would have to compute from the time of day. */
static void add_waiting_time(json_object *client) {
        uint64_t since = json_u64(client, "waiting_since"), now = now_realtime_us();

        json_set_u64(client, "waiting_us", since > 0 && now > since ? now - since : 0);
}

/* Under the names that the control socket has for them too. */
static void add_common_names(json_object *vm) {
        json_set_u64(vm, "pages_data_present", json_u64(vm, "pages_fetched"));
        json_set_bool(vm, "complete", strcmp(json_text(vm, "state"), "complete") == 0);
}

static int compare_ids(const void *a, const void *b) {
        const json_object *x = *(json_object *const *) a, *y = *(json_object *const *) b;
        uint64_t i = json_u64(x, json_get(x, "id") ? "id" : "index"),
                 k = json_u64(y, json_get(y, "id") ? "id" : "index");

        return i < k ? -1 : i > k;
}

static void take_object(struct view *view, json_object *interfaces) {
        json_object *o;

        if ((o = json_get(interfaces, BUS_PREFIX ".VM"))) {
                json_merge(view->vm, o);
                name_latencies(view->vm);
                add_common_names(view->vm);
        } else if ((o = json_get(interfaces, BUS_PREFIX ".Client"))) {
                name_latencies(o);
                add_waiting_time(o);
                (void) json_object_array_add(view->clients, json_object_get(o));
        } else if ((o = json_get(interfaces, BUS_PREFIX ".Region")))
                (void) json_object_array_add(view->regions, json_object_get(o));
        else if ((o = json_get(interfaces, BUS_PREFIX ".Source")))
                (void) json_object_array_add(view->sources, json_object_get(o));
}

int view_make_call(const struct broker *broker, sd_bus_message **ret) {
        return broker_make_call(broker, BUS_ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", ret);
}

int view_take(sd_bus_message *reply, struct view *ret) {
        _cleanup_view_ struct view view = {
                .vm = json_new_object(),
                .regions = json_new_array(),
                .sources = json_new_array(),
                .clients = json_new_array(),
                .taken_at_us = clock_now_us(),
        };
        _cleanup_json_ json_object *objects = NULL;
        int r = decode_message(reply, &objects);

        if (r < 0)
                return r;
        if (!json_object_is_type(objects, json_type_object))
                return -EBADMSG;
        json_object_object_foreach(objects, path, interfaces) if (path) take_object(&view, interfaces);
        if (json_object_object_length(view.vm) == 0)
                return -EBADMSG;
        json_object_array_sort(view.clients, compare_ids);
        json_object_array_sort(view.regions, compare_ids);
        json_object_array_sort(view.sources, compare_ids);
        *ret = view;
        view = (struct view) {};
        return 0;
}

int view_try(const struct broker *broker, struct view *ret, sd_bus_error *ret_error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        int r = view_make_call(broker, &call);

        if (r >= 0)
                r = sd_bus_call(broker->bus, call, 0, ret_error, &reply);
        return r < 0 ? r : view_take(reply, ret);
}

int view_read(const struct broker *broker, struct view *ret) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = view_try(broker, ret, &error);

        return r < 0 ? broker_complain(broker, "reading", r, &error) : STATUS_OK;
}

json_object *view_to_json(const struct view *view) {
        json_object *object = json_new_object();

        json_merge(object, view->vm);
        json_set(object, "regions", json_object_get(view->regions));
        json_set(object, "sources", json_object_get(view->sources));
        return object;
}
