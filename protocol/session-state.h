/* SPDX-License-Identifier: MIT */
/*
 * The session state: one memfd per session and epoch, written by the broker alone (F_SEAL_FUTURE_WRITE), read by one
 * client. PROTOCOL.md, section "Session state", is the contract.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/ring.h"

#define PB_STATE_MAGIC 0x0031303041545350ull /* "PSTA001\0" */

/*
 * outcome[s] = sequence << 32 | (uint32_t) result, for the request in slot s with that sequence.
 * Not yet taken: the sequence differs. Result PB_OUTCOME_TAKEN: under way. 0: done. Negative: errno.
 * The client may push slot s again once the outcome is 0 or negative and, for an asynchronous request, its entry in
 * completions[] has been read.
 */
#define PB_OUTCOME_TAKEN 1

struct pb_session_state {
        uint64_t magic;
        uint32_t version; /* 1 */
        uint32_t n_slots; /* PB_RING_SLOTS */
        uint64_t epoch;   /* the same as in every map of this epoch */
        uint8_t padding0[40];
        uint32_t event; /* changes with every outcome; waiters sleep here */
        uint32_t closed; /* 1: the broker has closed this session */
        uint8_t padding1[56];
        uint32_t doorbell_needed; /* 1: the pager sleeps or is about to */
        uint8_t padding2[60];
        uint32_t pager_cpu;   /* where the pager last ran */
        uint32_t pager_awake; /* 1: it runs now; a hint for spinning */
        uint64_t pager_turns; /* counts the pager's turns: it lives */
        uint8_t padding3[48];
        uint32_t completion_tail; /* free-running; entry i is completions[i % PB_RING_SLOTS] */
        uint8_t padding4[4096 - 260];
        uint64_t outcome[PB_RING_SLOTS];
        uint32_t completions[PB_RING_SLOTS]; /* slot numbers, of PB_SLOT_ASYNC requests */
};

static_assert(offsetof(struct pb_session_state, event) == 64, "contract: a cache line of its own");
static_assert(offsetof(struct pb_session_state, doorbell_needed) == 128, "contract: a cache line of its own");
static_assert(offsetof(struct pb_session_state, pager_cpu) == 192, "contract: a cache line of its own");
static_assert(offsetof(struct pb_session_state, pager_turns) == 200, "contract");
static_assert(offsetof(struct pb_session_state, completion_tail) == 256, "contract: a cache line of its own");
static_assert(offsetof(struct pb_session_state, outcome) == 4096, "contract");
static_assert(offsetof(struct pb_session_state, completions) == 4096 + 8 * 1024, "contract");
static_assert(sizeof(struct pb_session_state) == 4096 + 12 * 1024, "contract");

static inline uint64_t outcome_make(uint32_t sequence, int32_t result) {
        return (uint64_t) sequence << 32 | (uint32_t) result;
}

static inline uint32_t outcome_sequence(uint64_t outcome) {
        return (uint32_t) (outcome >> 32);
}

static inline int32_t outcome_result(uint64_t outcome) {
        return (int32_t) (uint32_t) outcome;
}
