/* SPDX-License-Identifier: MIT */
/* pagebrokerctl workingset replay: hands a file to a broker. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/workingset.h"
#include "common/clock.h"

#define PART (256u << 10)
#define LOOK_US (USEC_PER_SEC / 5)
#define ERROR_OTHER BUS_PREFIX ".Error.OtherWorkingSet"

static int send_part(const struct broker *broker, const struct set_file *file, uint64_t offset, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        int r = sd_bus_message_new_method_call(broker->bus, &call, broker->service, BUS_VM, BUS_PREFIX ".VM",
                                               "SendWorkingSet");

        if (r >= 0)
                r = sd_bus_message_append(call, "tt", file->size, offset);
        if (r >= 0)
                r = sd_bus_message_append_array(call, 'y', (const char *) file->data + offset,
                                                min_u64(PART, file->size - offset));
        if (r < 0)
                return r;
        (void) sd_bus_message_set_auto_start(call, false);
        return sd_bus_call(broker->bus, call, 0, error, &reply);
}

static int send_file(const struct broker *broker, const struct set_file *file) {
        for (uint64_t at = 0; at < file->size; at += PART) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                int r;

                set_progress("%s of %s", text_size(at).s, text_size(file->size).s);
                r = send_part(broker, file, at, &error);
                if (r < 0) {
                        set_progress_end();
                        return broker_complain(broker, "workingset replay", r, &error);
                }
        }
        set_progress_end();
        return STATUS_OK;
}

struct begun {
        uint64_t pages, runs;
};

static int begin(const struct ctl *ctl, const struct broker *broker, const char *path, struct begun *ret) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *notice;
        int r = broker_call(broker, BUS_VM, BUS_PREFIX ".VM", "ReplayWorkingSet", &error, &reply, "b",
                            (int) ctl->force);

        if (r < 0 && sd_bus_error_has_name(&error, ERROR_OTHER))
                return complain(STATUS_FAILURE, "%s is not of %s: %s. --force replays what fits all the same", path,
                                broker->name, text_safe(error.message).s);
        if (r >= 0)
                r = sd_bus_message_read(reply, "tts", &ret->pages, &ret->runs, &notice);
        if (r < 0)
                return broker_complain(broker, "workingset replay", r, &error);
        if (*notice)
                (void) fprintf(stderr, "pagebrokerctl: notice: %s\n", text_safe(notice).s);
        return STATUS_OK;
}

/* Until it has come to its end. */
static int wait_for_end(const struct broker *broker) {
        const struct timespec pause = clock_timespec(LOOK_US);

        for (;;) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
                _cleanup_json_ json_object *vm = NULL;
                int r = broker_call(broker, BUS_VM, "org.freedesktop.DBus.Properties", "GetAll", &error, &reply, "s",
                                    BUS_PREFIX ".VM");

                if (r >= 0)
                        r = decode_message(reply, &vm);
                if (r < 0) {
                        set_progress_end();
                        return broker_complain(broker, "workingset replay", r, &error);
                }
                if (!json_is(vm, "replaying"))
                        break;
                set_progress("%" PRIu64 " of " COUNTED_FORMAT, json_u64(vm, "replayed_pages"),
                             COUNTED(json_u64(vm, "replay_pages"), "page"));
                (void) nanosleep(&pause, NULL);
        }
        set_progress_end();
        return STATUS_OK;
}

static void say(const struct ctl *ctl, const struct broker *broker, const struct begun *begun) {
        _cleanup_json_ json_object *object = NULL;

        if (!ctl->json) {
                (void) printf("%s: " COUNTED_FORMAT " in " COUNTED_FORMAT " %s\n", broker->name,
                              COUNTED(begun->pages, "page"), COUNTED(begun->runs, "run"),
                              ctl->wait ? "replayed" : "being fetched");
                return;
        }
        object = json_new_object();
        json_set_text(object, "name", broker->name);
        json_set_u64(object, "pages", begun->pages);
        json_set_u64(object, "runs", begun->runs);
        json_set_bool(object, "replaying", !ctl->wait);
        json_print(object);
}

int set_replay(const struct ctl *ctl, const char *path) {
        _cleanup_set_file_ struct set_file file = {};
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        struct begun begun;
        int status = set_file_read(path, &file);

        if (status == STATUS_OK)
                status = broker_find(ctl, &brokers, &broker);
        if (status == STATUS_OK)
                status = send_file(broker, &file);
        if (status == STATUS_OK)
                status = begin(ctl, broker, path, &begun);
        if (status == STATUS_OK && ctl->wait)
                status = wait_for_end(broker);
        if (status == STATUS_OK)
                say(ctl, broker, &begun);
        return status;
}
