/* SPDX-License-Identifier: MIT */
/* A snapshot: a folder with `state` (a struct snapshot_state as it is) and `memory.img` (raw, sparse). */
#pragma once

#include "layout.h"
#include "memory.h"
#include "vcpu-state.h"

#define SNAPSHOT_MAGIC UINT64_C(0x31764d4d56696e69) /* "iniVMMv1" */

struct snapshot_state {
        uint64_t magic;
        struct layout layout;
        struct vcpu_state vcpu;
};

/* All of these complain and return a negative errno. */

/* Makes the folder, or replaces the snapshot in it. `state` appears last: a folder that has one is whole. */
int snapshot_save(const char *folder, const struct snapshot_state *state, const struct memory *memory);

int snapshot_load_state(const char *folder, struct snapshot_state *ret);

/* Reads the image into fresh memory: all of it, at once. */
int snapshot_load_memory(const char *folder, struct memory *memory);
