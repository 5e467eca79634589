/* SPDX-License-Identifier: MIT */
/* pagebrokerctl workingset record, stop: a recording by the broker, from its start to the mark, into a file of ours. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/workingset.h"
#include "common/clock.h"

#define PART (256u << 10)
#define LOOK_US USEC_PER_SEC
#define STOP_TRIES 3u

/* ---- what was recorded ---- */

struct recorded {
        uint64_t id, size, pages, entries;
};

static uint64_t argument(const json_object *reply, size_t i) {
        return json_object_get_uint64(json_object_array_get_idx(reply, i));
}

/* Asks again if the answer is lost: what was recorded is kept, and the mark is where it was. */
static int set_mark(const struct broker *broker, struct recorded *ret) {
        _cleanup_json_ json_object *reply = NULL;
        int status = STATUS_FAILURE;

        for (unsigned tries = 0; tries < STOP_TRIES; tries++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;
                int r = broker_call(broker, BUS_VM, BUS_PREFIX ".VM", "StopRecording", &error, &message, NULL);

                if ((r == -ETIMEDOUT || sd_bus_error_has_name(&error, SD_BUS_ERROR_NO_REPLY)) && tries + 1 < STOP_TRIES)
                        continue;
                status = broker_take(broker, "workingset", r, &error, message, &reply);
                break;
        }
        if (status != STATUS_OK)
                return status;
        if (json_length(reply) != 4)
                return complain(STATUS_FAILURE, "workingset: the broker of %s answers something else", broker->name);
        *ret = (struct recorded) { argument(reply, 0), argument(reply, 1), argument(reply, 2), argument(reply, 3) };
        if (ret->size > PB_WORKING_SET_SIZE_MAX)
                return complain(STATUS_FAILURE, "workingset: the broker of %s answers something else", broker->name);
        return STATUS_OK;
}

/* Adds the next part to `file`. STATUS_OK or complained. */
static int fetch_part(const struct broker *broker, const struct recorded *recorded, struct set_file *file) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const void *part = NULL;
        size_t n = 0;
        int r = broker_call(broker, BUS_VM, BUS_PREFIX ".VM", "ReadRecording", &error, &reply, "ttu", recorded->id,
                            file->size, PART);

        if (r >= 0)
                r = sd_bus_message_read_array(reply, 'y', &part, &n);
        if (r < 0)
                return broker_complain(broker, "workingset", r, &error);
        if (n == 0 || n > recorded->size - file->size)
                return complain(STATUS_FAILURE, "workingset: the broker of %s answers something else", broker->name);
        memcpy((char *) file->data + file->size, part, n);
        file->size += n;
        return STATUS_OK;
}

static int fetch(const struct broker *broker, const struct recorded *recorded, struct set_output *output) {
        _cleanup_set_file_ struct set_file file = { .data = malloc(recorded->size + 1) };
        const char *wrong;
        int status = STATUS_OK;

        if (!file.data)
                abort();
        while (file.size < recorded->size && status == STATUS_OK) {
                set_progress("%s of %s", text_size(file.size).s, text_size(recorded->size).s);
                status = fetch_part(broker, recorded, &file);
        }
        set_progress_end();
        if (status != STATUS_OK)
                return status;
        wrong = working_set_check(file.data, file.size, &file.view);
        if (wrong)
                return complain(STATUS_FAILURE, "what the broker of %s has recorded %s", broker->name, wrong);
        status = set_output_write(output, file.data, file.size);
        return status == STATUS_OK ? set_output_keep(output) : status;
}

static void say(const struct ctl *ctl, const struct broker *broker, const struct recorded *recorded, const char *path) {
        _cleanup_json_ json_object *object = NULL;

        /* Standard output has the file itself. */
        if (path && strcmp(path, "-") == 0)
                return;
        if (!ctl->json) {
                (void) printf("%s: " COUNTED_FORMAT " wanted (%s), in %" PRIu64 " entr%s%s%s\n", broker->name,
                              COUNTED(recorded->pages, "page"), text_size(recorded->pages * PB_PAGE_BYTES).s,
                              recorded->entries, recorded->entries == 1 ? "y" : "ies", path ? ": " : "", path ?: "");
                return;
        }
        object = json_new_object();
        json_set_text(object, "name", broker->name);
        json_set_u64(object, "pages", recorded->pages);
        json_set_u64(object, "entries", recorded->entries);
        if (path)
                json_set_text(object, "file", path);
        json_print(object);
}

/* Fetches, writes, and lets the broker forget it, in this order. */
static int take(const struct ctl *ctl, const struct broker *broker, const struct recorded *recorded,
                struct set_output *output) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int status = fetch(broker, recorded, output);

        if (status != STATUS_OK)
                return complain(status, "the broker of %s keeps it: pagebrokerctl workingset stop FILE", broker->name);
        /* Somebody else may have had it too, and the broker may have gone: all is well here. */
        (void) broker_call(broker, BUS_VM, BUS_PREFIX ".VM", "DropRecording", &error, NULL, "t", recorded->id);
        say(ctl, broker, recorded, output->path);
        return STATUS_OK;
}

/* ---- until the mark ---- */

static bool is_recording(const struct broker *broker, uint64_t id, uint64_t begun_us, int *ret_error,
                         sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_json_ json_object *vm = NULL;
        int r = broker_call(broker, BUS_VM, "org.freedesktop.DBus.Properties", "GetAll", error, &reply, "s",
                            BUS_PREFIX ".VM");

        if (r >= 0)
                r = decode_message(reply, &vm);
        *ret_error = r;
        if (r < 0)
                return false;
        set_progress("%s: " COUNTED_FORMAT " wanted", text_duration(clock_now_us() - begun_us).s,
                     COUNTED(json_u64(vm, "recorded_pages"), "page"));
        return json_is(vm, "recording") && json_u64(vm, "recording_since") == id;
}

/* Until a signal, the time, or somebody who stops it. */
static int await_mark(const struct ctl *ctl, const struct broker *broker, uint64_t id, const sigset_t *signals) {
        uint64_t begun_us = clock_now_us(), until_us = UINT64_MAX;
        bool goes_on = true;

        if (ctl->given & OPTION_FOR)
                until_us = begun_us + (uint64_t) (ctl->for_s * (double) USEC_PER_SEC);
        while (goes_on) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                uint64_t now_us = clock_now_us();
                struct timespec pause = clock_timespec(min_u64(LOOK_US, until_us - min_u64(now_us, until_us)));
                int r;

                if (now_us >= until_us || sigtimedwait(signals, NULL, &pause) > 0)
                        break;
                goes_on = is_recording(broker, id, begun_us, &r, &error);
                if (r < 0) {
                        set_progress_end();
                        (void) broker_complain(broker, "workingset record", r, &error);
                        return complain(STATUS_FAILURE, "what was recorded of %s is lost if its broker has ended",
                                        broker->name);
                }
        }
        set_progress_end();
        return STATUS_OK;
}

static int start(const struct broker *broker, const char *path, uint64_t *ret_id) {
        _cleanup_json_ json_object *reply = NULL;
        uint64_t present;
        int status = broker_ask(broker, "workingset record", "StartRecording", &reply, NULL);

        if (status != STATUS_OK)
                return status;
        if (json_length(reply) != 3)
                return complain(STATUS_FAILURE, "workingset: the broker of %s answers something else", broker->name);
        *ret_id = argument(reply, 0);
        present = argument(reply, 1);
        (void) fprintf(
                stderr,
                "recording which pages of %s are wanted, into %s, until Ctrl-C or pagebrokerctl workingset stop\n",
                broker->name, path);
        if (present > 0)
                (void) fprintf(stderr, COUNTED_FORMAT " present already: nobody can be seen to want what is there\n",
                               COUNTED(present, "page"));
        if (json_object_get_boolean(json_object_array_get_idx(reply, 2)))
                (void) fputs("the background fill is on: what it brings before it is wanted is not seen (pagebrokerctl "
                             "fill off)\n",
                             stderr);
        return STATUS_OK;
}

static int record(const struct ctl *ctl, const struct broker *broker, const sigset_t *signals,
                  struct set_output *output) {
        struct recorded recorded;
        uint64_t id = 0;
        int status = start(broker, output->path, &id);

        if (status == STATUS_OK)
                status = await_mark(ctl, broker, id, signals);
        if (status != STATUS_OK)
                return status;
        status = set_mark(broker, &recorded);
        if (status != STATUS_OK)
                return complain(status,
                                "what was recorded of %s is lost here: its broker has been restarted, or somebody else "
                                "has fetched it",
                                broker->name);
        if (recorded.id != id)
                return complain(STATUS_FAILURE,
                                "another recording of %s has taken the place of this one, which is lost", broker->name);
        return take(ctl, broker, &recorded, output);
}

int set_record(const struct ctl *ctl, const char *path) {
        _cleanup_set_output_ struct set_output output = { .fd = -1 };
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        sigset_t signals;
        int status;

        /* From here on: a signal is the mark, whenever it comes. */
        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGINT);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &signals, NULL);
        status = broker_find(ctl, &brokers, &broker);
        /* That it cannot be written is found out now, and not when all has been recorded. */
        if (status == STATUS_OK)
                status = set_output_open(&output, path);
        return status == STATUS_OK ? record(ctl, broker, &signals, &output) : status;
}

int set_stop(const struct ctl *ctl, const char *path) {
        _cleanup_set_output_ struct set_output output = { .fd = -1 };
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        struct recorded recorded;
        int status = broker_find(ctl, &brokers, &broker);

        if (status == STATUS_OK && path)
                status = set_output_open(&output, path);
        if (status == STATUS_OK)
                status = set_mark(broker, &recorded);
        if (status != STATUS_OK)
                return status;
        if (path)
                return take(ctl, broker, &recorded, &output);
        say(ctl, broker, &recorded, NULL);
        return STATUS_OK;
}
