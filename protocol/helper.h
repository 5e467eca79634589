/* SPDX-License-Identifier: MIT */
/*
 * What a broker shares with a source's helper: a process of its own that talks to a server on the broker's behalf.
 * PROTOCOL.md, section "Source helpers", is the contract.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The helper's descriptors. */
#define PB_HELPER_SOCKET_FD 3 /* SOCK_SEQPACKET; its end is the broker's end */
#define PB_HELPER_MEMORY_FD 4 /* memfd: struct pb_helper_memory, buffers, map of zero pages */
#define PB_HELPER_WAKE_FD 5   /* eventfd: the helper writes, the broker only polls */

#define PB_HELPER_MAGIC 0x0031303050454850ull /* "PHEP001\0" */
#define PB_HELPER_DEPTH_MAX 256u /* reads at once */
#define PB_HELPER_SLOTS (2 * PB_HELPER_DEPTH_MAX)
#define PB_HELPER_WORDS (PB_HELPER_SLOTS / 64)
#define PB_HELPER_READ_MAX (256u << 10) /* bytes; a slot's buffer */
#define PB_HELPER_TEXT_SIZE 1024u

/* What the source is like; written by the helper. */
enum pb_helper_state {
        PB_HELPER_CONNECTED = 0,
        PB_HELPER_DISCONNECTED = 1, /* reads wait */
        PB_HELPER_CHANGED = 2,      /* what is there now is not what was opened: reads fail with -ESTALE */
};

/* A read. Written by the broker while it is the broker's, by the helper while its bit in `owned` is set. */
struct pb_helper_slot {
        uint64_t offset; /* bytes */
        uint32_t length; /* bytes, a multiple of 4096 */
        int32_t result;  /* bytes or a negative errno */
};

static_assert(sizeof(struct pb_helper_slot) == 16, "contract");

struct pb_helper_memory {
        /* Written by the broker before `ready`; the helper may be a second one, after the first has crashed. */
        uint64_t magic;
        uint32_t ready; /* atomic */
        uint32_t depth;
        uint64_t size; /* bytes of the source */
        uint64_t buffers_offset, zero_map_offset, memory_size; /* bytes, of this memory */
        char identity[PB_HELPER_TEXT_SIZE];
        /* Written by the helper. */
        uint32_t state;     /* enum pb_helper_state; atomic */
        uint32_t map_known; /* the map of zero pages is as full as it gets; atomic */
        /* Written by the broker, once: nothing will be read any more, and the range is in guest memory. */
        uint64_t finish_offset, finish_length; /* bytes, of the source; before `finish` */
        uint32_t finish;                       /* atomic */
        uint32_t finished;                     /* written by the helper: it has nothing left to do, and ends; atomic */
        /* Bits of slots, atomic. */
        uint64_t owned[PB_HELPER_WORDS];     /* the broker sets and clears: a read that has not been reaped */
        uint64_t submitted[PB_HELPER_WORDS]; /* the broker sets, the helper takes */
        uint64_t forgotten[PB_HELPER_WORDS]; /* the broker sets, the helper takes */
        uint64_t done[PB_HELPER_WORDS];      /* the helper sets, the broker takes */
        struct pb_helper_slot slots[PB_HELPER_SLOTS];
};

static_assert(offsetof(struct pb_helper_memory, identity) == 48, "contract");
static_assert(offsetof(struct pb_helper_memory, state) == 1072, "contract");
static_assert(offsetof(struct pb_helper_memory, finish_offset) == 1080, "contract");
static_assert(offsetof(struct pb_helper_memory, owned) == 1104, "contract");
static_assert(sizeof(struct pb_helper_memory) == 1104 + 4 * 64 + 512 * 16, "contract");

enum pb_helper_flags {
        PB_HELPER_WANTS_INSTALLED = 1u << 0, /* PB_HELPER_INSTALLED is of use */
};

/* From the first helper, once: the source is open, or why not. */
struct pb_helper_opened {
        uint64_t magic;
        int32_t error; /* 0 or a negative errno; then `text` is a sentence, else the identity */
        uint32_t depth;
        uint64_t size;  /* bytes */
        uint32_t flags; /* enum pb_helper_flags */
        uint32_t padding;
        char text[PB_HELPER_TEXT_SIZE]; /* with its NUL */
};

static_assert(sizeof(struct pb_helper_opened) == 32 + PB_HELPER_TEXT_SIZE, "contract");

/* From the broker. One byte, or the whole struct. */
enum pb_helper_word {
        PB_HELPER_LOOK = 1,      /* there are bits in `submitted` or `forgotten`; `ready` or `finish` has been set */
        PB_HELPER_INSTALLED = 2, /* the pages of the range are in the broker's memory */
};

struct pb_helper_packet {
        uint8_t word;
        uint8_t padding[7];
        uint64_t offset, length; /* bytes, of the source */
};

static_assert(sizeof(struct pb_helper_packet) == 24, "contract");
