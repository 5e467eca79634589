/* SPDX-License-Identifier: MIT */
/*
 * The session ring: one memfd per session, made by the broker, writable by both. It holds the client's request slots
 * and the word that says that some of its threads sleep. PROTOCOL.md, section "Session ring", is the contract.
 *
 * It is a table rather than a queue: a request has no place in an order, so there is no index that could be out of
 * range and no unfinished push that others would have to wait for or step over. A slot belongs to one request from
 * push until its outcome has been read; that is the credit of both directions, so nothing here can overflow.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PB_RING_MAGIC 0x00313030474e5250ull /* "PRNG001\0" */
#define PB_RING_SLOTS 1024u
#define PB_RING_READY_WORDS (PB_RING_SLOTS / 64u)
#define PB_SLOT_RANGES 10u

enum pb_slot_op {
        PB_SLOT_ENSURE = 1,   /* make present; outcome when all are (or one failed) */
        PB_SLOT_PREFETCH = 2, /* outcome at once */
        PB_SLOT_DISCARD = 3,  /* role VMM; outcome when done */
};

enum pb_slot_flags {
        PB_SLOT_ASYNC = 1u << 0, /* announce the outcome in the completion queue */
};

/* As PB_READ, PB_WRITE and PB_OVERWRITE of client/pagebroker.h, whose values client/ asserts to be these. */
enum pb_intent {
        PB_INTENT_READ = 1,
        PB_INTENT_WRITE = 2,
        PB_INTENT_OVERWRITE = 3,
};

/* A piece of one memory in pages. */
struct pb_slot_range {
        uint64_t first_page;
        uint64_t n_pages; /* at least 1 */
        uint32_t memory;
        uint32_t intent;  /* PB_INTENT_*; 0 for a prefetch and a discard */
};

struct pb_slot {
        uint32_t sequence; /* changed by the client at every use of the slot, never 0; echoed in the outcome */
        union {
                struct {
                        uint8_t op;
                        uint8_t flags;
                        uint16_t n_ranges; /* 1 to PB_SLOT_RANGES */
                };
                uint32_t head; /* the three at once: the broker reads them in one access */
        };
        uint64_t padding;  /* zero */
        struct pb_slot_range ranges[PB_SLOT_RANGES];
};

struct pb_ring {
        uint64_t magic;
        uint32_t version; /* 1 */
        uint32_t n_slots; /* PB_RING_SLOTS */
        uint8_t padding0[48];
        uint32_t summary; /* bit w: ready[w] may be non-zero */
        uint8_t padding1[60];
        uint32_t sleepers; /* threads of the client inside futex_waitv() */
        uint8_t padding2[60];
        uint64_t ready[PB_RING_READY_WORDS]; /* bit s % 64 of word s / 64: slot s has been pushed */
        uint8_t padding3[4096 - 192 - 8 * PB_RING_READY_WORDS];
        struct pb_slot slots[PB_RING_SLOTS];
};

static_assert(sizeof(struct pb_slot_range) == 24, "contract");
static_assert(sizeof(struct pb_slot) == 256, "contract");
static_assert(offsetof(struct pb_slot, ranges) == 16, "contract");
static_assert(offsetof(struct pb_ring, summary) == 64, "contract: a cache line of its own");
static_assert(offsetof(struct pb_ring, sleepers) == 128, "contract: a cache line of its own");
static_assert(offsetof(struct pb_ring, ready) == 192, "contract");
static_assert(offsetof(struct pb_ring, slots) == 4096, "contract");
static_assert(sizeof(struct pb_ring) == 4096 + 256 * 1024, "contract");
static_assert(PB_RING_READY_WORDS <= 32, "one summary word");
