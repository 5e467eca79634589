/* SPDX-License-Identifier: MIT */
#include "broker/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/pager.h"
#include "broker/recorder.h"
#include "broker/replay.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"

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

int working_set_record(struct broker *broker) {
        int r = recorder_start(broker->pager->recorder, broker->options->name, broker->memories, broker->n_memories);

        if (r == 0)
                log_info("working set: recording which pages are wanted");
        return r;
}

static int save(int memfd, int fd) {
        char buffer[65536];
        off_t at = 0;
        ssize_t n;

        if (ftruncate(fd, 0) < 0)
                return -errno;
        while ((n = pread(memfd, buffer, sizeof buffer, at)) > 0) {
                for (ssize_t done = 0, m; done < n; done += m) {
                        m = write(fd, buffer + done, (size_t) (n - done));
                        if (m < 0)
                                return -errno;
                }
                at += n;
        }
        return n < 0 ? -errno : 0;
}

int working_set_mark(struct broker *broker) {
        struct recorder_counters counters;
        int memfd, r;

        recorder_count(broker->pager->recorder, &counters);
        memfd = recorder_stop(broker->pager->recorder);
        if (memfd < 0) {
                if (memfd != -ENODATA)
                        log_error("working set: what was recorded cannot be kept: %s", strerror(-memfd));
                return memfd;
        }
        log_info("working set: recorded %" PRIu64 " pages in %" PRIu64 " entries", counters.pages, counters.entries);
        if (broker->record_fd < 0)
                return memfd;
        r = save(memfd, broker->record_fd);
        if (r < 0)
                log_error("--working-set-record=%s: %s", broker->options->working_set_record, strerror(-r));
        broker->record_fd = fd_close(broker->record_fd);
        return memfd;
}

int working_set_replay(struct broker *broker, int fd, char **ret_error) {
        _cleanup_free_ char *notice = NULL;
        struct replay *replay;
        int r = replay_load(&replay, fd, broker->memories, broker->n_memories, &notice, ret_error);

        if (r < 0)
                return r;
        if (notice)
                log_notice("working set: %s", notice);
        pager_set_replay(broker->pager, replay);
        return 0;
}

int working_set_begin(struct broker *broker) {
        _cleanup_free_ char *error = NULL;
        int r = 0;

        if (broker->replay_fd >= 0) {
                r = working_set_replay(broker, broker->replay_fd, &error);
                if (r < 0)
                        log_error("--working-set-replay=%s: %s", broker->options->working_set_replay, error ?: strerror(-r));
                broker->replay_fd = fd_close(broker->replay_fd);
        }
        if (r == 0 && broker->record_fd >= 0)
                r = working_set_record(broker);
        return r;
}

void working_set_end(struct broker *broker) {
        if (broker->pager && broker->pager->recorder && recorder_is_on(broker->pager->recorder))
                (void) fd_close(working_set_mark(broker));
        broker->record_fd = fd_close(broker->record_fd);
        broker->replay_fd = fd_close(broker->replay_fd);
}
