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

struct recorder_counters {
        bool on;
        uint64_t pages, entries, since_us; /* since_us: CLOCK_MONOTONIC */
};

int recorder_new(struct recorder **ret);
struct recorder *recorder_free(struct recorder *recorder);

/* Begins anew; what was recorded and not taken is forgotten. -ENOMEM. */
int recorder_start(struct recorder *recorder, const char *vm, struct memory *const memories[], unsigned n_memories);

/*
 * The mark: ends the recording and returns it as a sealed memfd, protocol/working-set.h. -ENODATA: none was begun.
 */
int recorder_stop(struct recorder *recorder);

/* Only looks; from any thread. */
bool recorder_is_on(const struct recorder *recorder);
void recorder_count(struct recorder *recorder, struct recorder_counters *ret);

/* Pages `mask` of a slice are wanted, and were absent a moment ago. From any thread, without locks held. */
void recorder_note(struct recorder *recorder, const struct memory *memory, uint64_t slice, uint64_t mask,
                   const struct request_origin *origin, enum request_class class);
