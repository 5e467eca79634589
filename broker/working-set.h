/* SPDX-License-Identifier: MIT */
/* Record and replay of the working set, as the command line and admins ask for them. On the control thread. */
#pragma once

struct broker;

/* Opens the files of --working-set-record and --working-set-replay; privileges are still there. Prints what is wrong. */
int working_set_open(struct broker *broker);

/* Begins what the command line asks for, once memories and pager stand. */
int working_set_begin(struct broker *broker);

/* At the end of the broker: writes what is still being recorded to its file. */
void working_set_end(struct broker *broker);

int working_set_record(struct broker *broker);

/* The mark. Returns a sealed memfd, the caller's; the file of --working-set-record is written too. -ENODATA: nothing is
 * being recorded. */
int working_set_mark(struct broker *broker);

/* Replays what the descriptor holds: a regular file, or a memfd, that nobody writes to any more. The descriptor stays the
 * caller's. On failure `ret_error` is set to a sentence; free it. */
int working_set_replay(struct broker *broker, int fd, char **ret_error);
