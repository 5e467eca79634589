/* SPDX-License-Identifier: MIT */
/*
 * Methods that record and replay working sets. Files come and go as bytes, a part a call: descriptors are not taken on the
 * bus (their close() may hang, closer.h), and no answer is larger than what a daemon takes without a thought.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/bus-internal.h"
#include "broker/pager.h"
#include "broker/recorder.h"
#include "broker/recording.h"
#include "broker/working-set.h"
#include "common/cleanup.h"
#include "common/macro.h"

#define PART_MAX (256u << 10)

static int set_no_recording(sd_bus_error *error) {
        return sd_bus_error_setf(error, BUS_ERROR_NO_SUCH_RECORDING,
                                 "nothing is being recorded, and nothing that was is kept");
}

int bus_start_recording(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        struct broker *broker = view->broker;
        struct recorder_counters counters;
        int r;

        if (pager_is_complete(broker->pager))
                return sd_bus_error_setf(error, BUS_ERROR_COMPLETE,
                                         "all pages are present; nobody can be seen to want one");
        r = working_set_record(broker);
        if (r == -EBUSY)
                return sd_bus_error_setf(error, BUS_ERROR_RECORDING, "a recording is under way%s",
                                         broker->record_fd >= 0 ? ", into the file of --working-set-record" : "");
        if (r < 0)
                return r;
        recorder_count(broker->pager->recorder, &counters);
        return sd_bus_reply_method_return(message, "ttb", counters.started_us, view->pages_present, view->fill);
}

int bus_stop_recording(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        const struct recording *recording;

        if (working_set_mark(view->broker, &recording) < 0)
                return set_no_recording(error);
        /* Whatever becomes of the answer: it is kept until somebody says that he has it. */
        return sd_bus_reply_method_return(message, "tttt", recording->header.started_us, recording->header.size,
                                          recording->pages, recording->header.n_entries);
}

int bus_read_recording(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const struct recording *recording;
        uint64_t id, offset;
        uint32_t n;
        void *space;
        int r = sd_bus_message_read(message, "ttu", &id, &offset, &n);

        if (r < 0)
                return r;
        recording = working_set_kept(view->broker, id);
        if (!recording)
                return set_no_recording(error);
        if (offset > recording->header.size)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_RANGE, "the recording has %llu bytes",
                                         (unsigned long long) recording->header.size);
        n = (uint32_t) min_u64(min_u64(n, PART_MAX), recording->header.size - offset);
        r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_append_array_space(reply, 'y', n, &space);
        if (r < 0)
                return r;
        recording_copy(recording, offset, n, space);
        return sd_bus_send(NULL, reply, NULL);
}

int bus_drop_recording(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        uint64_t id;
        int r = sd_bus_message_read(message, "t", &id);

        if (r < 0)
                return r;
        if (!working_set_kept(view->broker, id))
                return set_no_recording(error);
        working_set_drop(view->broker);
        return sd_bus_reply_method_return(message, "");
}

int bus_send_working_set(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        uint64_t size, offset;
        const void *part;
        size_t n;
        int r = sd_bus_message_read(message, "tt", &size, &offset);

        if (r >= 0)
                r = sd_bus_message_read_array(message, 'y', &part, &n);
        if (r < 0)
                return r;
        r = n > PART_MAX
                    ? -EINVAL
                    : working_set_send(view->broker, sd_bus_message_get_sender(message) ?: "", size, offset, part, n);
        if (r == -EFBIG)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_WORKING_SET, "a working set has 1 to %llu bytes",
                                         (unsigned long long) PB_WORKING_SET_SIZE_MAX);
        if (r == -EINVAL)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_WORKING_SET,
                                         "this is not the next part, of %u bytes at most, of the file", PART_MAX);
        if (r == -ECANCELED)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_WORKING_SET,
                                         "the first part has not been sent, or another file has taken its place");
        return r < 0 ? r : sd_bus_reply_method_return(message, "");
}

int bus_replay_working_set(sd_bus_message *message, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        _cleanup_free_ char *why = NULL, *notice = NULL;
        struct working_set_plan plan = {};
        int force, r = sd_bus_message_read(message, "b", &force);

        if (r < 0)
                return r;
        r = working_set_replay_sent(view->broker, sd_bus_message_get_sender(message) ?: "", force, &plan, &why);
        notice = plan.notice;
        if (r == -EXDEV)
                return sd_bus_error_setf(error, BUS_ERROR_OTHER_WORKING_SET, "%s", why ?: strerror(-r));
        if (r == -ENODATA)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_WORKING_SET, "no whole file has been sent");
        if (r == -EINVAL)
                return sd_bus_error_setf(error, BUS_ERROR_BAD_WORKING_SET, "the file %s", why ?: strerror(-r));
        return r < 0 ? r : sd_bus_reply_method_return(message, "tts", plan.n_pages, plan.n_runs, notice ?: "");
}
