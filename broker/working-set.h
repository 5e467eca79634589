/* SPDX-License-Identifier: MIT */
/* Record and replay of the working set, as the command line and admins ask for them. On the control thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct recording;

/* What an admin has to do with. */
struct working_set {
        struct recording *kept; /* recorded, and not fetched yet */
        bool kept_is_safe;      /* it is in the file of --working-set-record */
        uint8_t *sent;          /* a file on its way to us */
        uint64_t sent_size, sent_n;
        char sender[64]; /* whose */
};

/* Opens the files of --working-set-record and --working-set-replay; privileges are still there. Prints what is wrong. */
int working_set_open(struct broker *broker);

/* Begins what the command line asks for, once memories and pager stand, and says what an earlier broker has left undone. */
int working_set_begin(struct broker *broker);

/* At the end of the broker: writes what is still being recorded to its file, or says that it is lost. */
void working_set_end(struct broker *broker);

/* -EBUSY: one is under way; -ENOMEM. What was kept is forgotten. */
int working_set_record(struct broker *broker);

/* The mark. What was recorded is kept until it is dropped or another recording begins; once more, it is the same one. The
 * file of --working-set-record is written too. -ENODATA: nothing is being recorded, nothing is kept. */
int working_set_mark(struct broker *broker, const struct recording **ret);

/* What is kept, if it is the one that began then; NULL: there is no such. */
const struct recording *working_set_kept(const struct broker *broker, uint64_t started_us);
void working_set_drop(struct broker *broker);

/* A part of a file of `size` bytes: from 0 on, one after the other. One file at a time: the first part of another takes
 * its place. -EFBIG: larger than any; -EINVAL: not the next part; -ECANCELED: another one has sent his meanwhile; -ENOMEM. */
int working_set_send(struct broker *broker, const char *sender, uint64_t size, uint64_t offset, const void *data,
                     uint64_t n);

struct working_set_plan {
        uint64_t n_pages, n_runs;
        char *notice; /* or NULL; to be freed */
};

/* Replays what has been sent, all of it, and forgets it. -ENODATA: nothing has, or not all; else as replay_new(), and on
 * failure `ret_error` (if not NULL) is a sentence to be freed. */
int working_set_replay_sent(struct broker *broker, const char *sender, bool force, struct working_set_plan *ret,
                            char **ret_error);

/* pager_events.replayed has come. */
void working_set_replayed(struct broker *broker);
