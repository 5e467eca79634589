/* SPDX-License-Identifier: MIT */
/*
 * Records the working set: each page that was wanted while it was absent, when, and by whom. Off, it costs the slow path
 * one load; on, a short lock.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/request.h"

struct memory;
struct recorder;
struct recording;

struct recorder_counters {
        bool on;
        uint64_t pages, entries, started_us; /* started_us: microseconds since 1970 */
};

int recorder_new(struct recorder **ret);
struct recorder *recorder_free(struct recorder *recorder);

/* Takes the recording. One that is under way is forgotten. */
void recorder_start(struct recorder *recorder, struct recording *recording);

/* The mark: ends the recording and returns it, finished and the caller's. NULL: none is under way. */
struct recording *recorder_stop(struct recorder *recorder);

/* Something that whoever reads it is to know: PB_WORKING_SET_*. */
void recorder_flag(struct recorder *recorder, uint32_t flags);

/* Only looks; from any thread. */
bool recorder_is_on(const struct recorder *recorder);
void recorder_count(struct recorder *recorder, struct recorder_counters *ret);

/* Pages `mask` of a slice are wanted, and were absent a moment ago. From any thread, without locks held. */
void recorder_note(struct recorder *recorder, const struct memory *memory, uint64_t slice, uint64_t mask,
                   const struct request_origin *origin, enum request_class class);
