/* SPDX-License-Identifier: MIT */
#include "broker/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/recorder.h"
#include "broker/recording.h"
#include "broker/replay.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker pread64 write ~ftruncate close */

int working_set_open(struct broker *broker) {
        const char *record = broker->options->working_set_record, *replay = broker->options->working_set_replay;

        /* Not cut before there is something to be put into it. */
        if (record && (broker->record_fd = open(record, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644)) < 0) {
                log_error("--working-set-record=%s: %s", record, strerror(errno));
                return -errno;
        }
        if (replay && (broker->replay_fd = open(replay, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)) < 0) {
                log_error("--working-set-replay=%s: %s", replay, strerror(errno));
                return -errno;
        }
        return 0;
}

/* ---- record ---- */

/* For the next broker, if there is one. */
static void note_recording(struct broker *broker, bool on) {
        if (broker->ledger)
                __atomic_store_n(&broker->ledger->data->recording, on, __ATOMIC_RELEASE);
}

static void note_replaying(struct broker *broker, bool on) {
        if (broker->ledger)
                __atomic_store_n(&broker->ledger->data->replaying, on, __ATOMIC_RELEASE);
}

int working_set_record(struct broker *broker) {
        struct recorder *recorder = broker->pager->recorder;
        struct recording *recording;
        uint64_t present;
        bool fill;
        int r;

        if (recorder_is_on(recorder))
                return -EBUSY;
        r = recording_new(&recording, broker->options->name, broker->memories, broker->n_memories);
        if (r < 0)
                return r;
        /* One begins later than the other, by any clock: they are told apart by it. */
        if (broker->working_set.kept)
                recording->header.started_us =
                        max_u64(recording->header.started_us, broker->working_set.kept->header.started_us + 1);
        working_set_drop(broker);
        fill = atomic_load_explicit(&broker->pager->fill_on_now, memory_order_relaxed);
        present = recording->header.pages_present;
        recording->header.flags = fill ? PB_WORKING_SET_FILL : 0;
        recorder_start(recorder, recording);
        /* Turned on between the look and the start, it has not flagged anything. */
        if (atomic_load_explicit(&broker->pager->fill_on_now, memory_order_relaxed))
                recorder_flag(recorder, PB_WORKING_SET_FILL);
        note_recording(broker, true);
        log_info("working set: recording which pages are wanted");
        if (fill)
                log_notice("working set: the background fill is on; what it brings before somebody wants it is not "
                           "recorded "
                           "(--fill=off, or pagebrokerctl fill off)");
        if (present > 0)
                log_notice("working set: %" PRIu64 " pages are present already, and nobody can be seen to want them",
                           present);
        return 0;
}

static bool write_file(struct broker *broker, const struct recording *recording) {
        int r = ftruncate(broker->record_fd, 0) < 0 ? -errno : recording_write(recording, broker->record_fd);

        if (r < 0)
                log_error("--working-set-record=%s: %s", broker->options->working_set_record, strerror(-r));
        broker->record_fd = fd_close(broker->record_fd);
        return r == 0;
}

int working_set_mark(struct broker *broker, const struct recording **ret) {
        struct recording *recording = recorder_stop(broker->pager->recorder);

        if (recording) {
                note_recording(broker, false);
                log_info("working set: recorded %" PRIu64 " pages in %" PRIu64 " entries", recording->pages,
                         recording->header.n_entries);
                working_set_drop(broker);
                broker->working_set.kept = recording;
                broker->working_set.kept_is_safe = broker->record_fd >= 0 && write_file(broker, recording);
        }
        if (!broker->working_set.kept)
                return -ENODATA;
        *ret = broker->working_set.kept;
        return 0;
}

const struct recording *working_set_kept(const struct broker *broker, uint64_t started_us) {
        const struct recording *kept = broker->working_set.kept;

        return kept && kept->header.started_us == started_us ? kept : NULL;
}

void working_set_drop(struct broker *broker) {
        broker->working_set.kept = recording_free(broker->working_set.kept);
}

/* ---- replay ---- */

static struct replay_target target_of(const struct broker *broker, bool force) {
        return (struct replay_target) {
                .vm = broker->options->name,
                .memories = broker->memories,
                .n_memories = broker->n_memories,
                .force = force,
        };
}

static void begin_replay(struct broker *broker, struct replay *replay, const char *notice) {
        if (notice)
                log_notice("working set: %s", notice);
        pager_set_replay(broker->pager, replay);
}

static void forget_sent(struct broker *broker) {
        free(PTR_TAKE(broker->working_set.sent));
        broker->working_set.sent_size = broker->working_set.sent_n = 0;
}

int working_set_send(struct broker *broker, const char *sender, uint64_t size, uint64_t offset, const void *data,
                     uint64_t n) {
        struct working_set *set = &broker->working_set;

        if (size == 0 || size > PB_WORKING_SET_SIZE_MAX)
                return -EFBIG;
        if (offset == 0) {
                forget_sent(broker);
                set->sent = malloc(size);
                if (!set->sent)
                        return -ENOMEM;
                set->sent_size = size;
                (void) snprintf(set->sender, sizeof set->sender, "%s", sender);
        }
        if (!set->sent || strcmp(set->sender, sender) != 0)
                return -ECANCELED;
        if (size != set->sent_size || offset != set->sent_n || !range_fits(offset, n, size))
                return -EINVAL;
        memcpy(set->sent + offset, data, n);
        set->sent_n += n;
        return 0;
}

int working_set_replay_sent(struct broker *broker, const char *sender, bool force, struct working_set_plan *ret,
                            char **ret_error) {
        struct working_set *set = &broker->working_set;
        const struct replay_target target = target_of(broker, force);
        struct replay *replay;
        char *notice = NULL;
        int r;

        *ret_error = NULL;
        if (!set->sent || strcmp(set->sender, sender) != 0 || set->sent_n != set->sent_size)
                return -ENODATA;
        r = replay_new(&replay, set->sent, set->sent_size, &target, &notice, ret_error);
        forget_sent(broker);
        if (r < 0)
                return r;
        *ret = (struct working_set_plan) { .n_pages = replay->n_pages, .n_runs = replay->n_runs, .notice = notice };
        note_replaying(broker, true);
        begin_replay(broker, replay, notice);
        return 0;
}

void working_set_replayed(struct broker *broker) {
        if (!pager_is_replaying(broker->pager))
                note_replaying(broker, false);
}

/* As the command line wants it: a VM is not kept from starting because its snapshot is a newer one. */
static int replay_file(struct broker *broker) {
        const struct replay_target target = target_of(broker, true);
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct replay *replay;
        int r = replay_load(&replay, broker->replay_fd, &target, &notice, &error);

        broker->replay_fd = fd_close(broker->replay_fd);
        if (r < 0)
                log_error("--working-set-replay=%s: %s", broker->options->working_set_replay, error ?: strerror(-r));
        else
                begin_replay(broker, replay, notice);
        return r;
}

/* ---- begin and end ---- */

static void say_what_was_lost(struct broker *broker) {
        const struct ledger_data *data = broker->ledger->data;

        if (data->recording)
                log_notice(
                        "working set: the broker before this one was recording, and what it had recorded went with it");
        if (data->replaying)
                log_notice("working set: the broker before this one was replaying; the rest is not fetched ahead "
                           "unless it is "
                           "replayed again");
}

int working_set_begin(struct broker *broker) {
        int r = 0;

        if (broker->resumed && broker->ledger)
                say_what_was_lost(broker);
        note_recording(broker, false);
        note_replaying(broker, false);
        /* Also after a restart: pages that are present cost it nothing. */
        if (broker->replay_fd >= 0)
                r = replay_file(broker);
        if (r == 0 && broker->record_fd >= 0) {
                r = working_set_record(broker);
                if (r == 0 && broker->resumed)
                        recorder_flag(broker->pager->recorder, PB_WORKING_SET_RESUMED);
        }
        return r;
}

void working_set_end(struct broker *broker) {
        const struct working_set *set = &broker->working_set;
        const struct recording *recording;

        if (broker->pager && broker->pager->recorder)
                (void) working_set_mark(broker, &recording);
        if (set->kept && !set->kept_is_safe)
                log_warning("working set: nobody has fetched what was recorded: it is lost");
        working_set_drop(broker);
        forget_sent(broker);
        broker->record_fd = fd_close(broker->record_fd);
        broker->replay_fd = fd_close(broker->replay_fd);
}
