/* SPDX-License-Identifier: MIT */
/*
 * Cold reads under way: many at once, each into a private buffer of the pool, never into guest memory (invariant 2: an
 * asynchronous read may land long after its submitter is dead). Used by the pager's thread only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct fetch;
struct reader;
struct source;

enum reader_kind {
        READER_AUTO, /* io_uring, or workers where it is forbidden */
        READER_URING,
        READER_THREADS,
};

/* `depth`: reads under way at once. As many again may wait for the answers of abandoned reads. */
int reader_new(struct reader **ret, enum reader_kind kind, unsigned depth);
/* Waits for nothing: reads under way may outlive it, their buffers are leaked to them. Only at exit. */
struct reader *reader_free(struct reader *reader);

/* No read is under way, and none will be: gives back ring, workers and buffers. */
void reader_retire(struct reader *reader);

const char *reader_name(const struct reader *reader);

/* A source that makes its reads by itself is reaped with the others from now on; one that does not is left alone. */
int reader_add_source(struct reader *reader, struct source *source);

/* Polls readable when reader_reap() may have something, but for what such sources say on their own descriptors. */
int reader_get_fd(struct reader *reader);

enum reader_room {
        READER_FULL,
        READER_HAS_ROOM,
        READER_STUCK, /* every buffer is held by an abandoned read */
};

/* May another read of `source` be started? Half of the depth stays free for who stands still. */
enum reader_room reader_get_room(const struct reader *reader, const struct source *source, bool demand);
/* Is there none for any source? */
bool reader_is_full(const struct reader *reader);

/* Starts fetch->read from fetch->source. 0 or a negative errno (nothing was started then). */
int reader_submit(struct reader *reader, struct fetch *fetch);

/* Tells the kernel of what was submitted. One call for many reads. */
void reader_flush(struct reader *reader);

/* A cheap look, without a system call. */
bool reader_has_answers(struct reader *reader);

/* The next finished read, with its result set, or NULL. Give its buffer back with reader_release(). */
struct fetch *reader_reap(struct reader *reader);
void reader_release(struct reader *reader, struct fetch *fetch);

/* The read's answer is not wanted any more, but its buffer is still the kernel's, or the source's. */
void reader_abandon(struct reader *reader, struct fetch *fetch);
