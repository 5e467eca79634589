/* SPDX-License-Identifier: MIT */
/*
 * A memory: one memfd with its presence map, shown to the guest as one or more regions.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/failing.h"
#include "broker/order.h"
#include "broker/slice.h"
#include "protocol/message.h"
#include "protocol/presence.h"

struct checksums;
struct numa_policy;
struct peer;
struct source;

#define PEERS_PER_MEMORY_MAX 1024

struct region {
        uint32_t memory;
        uint64_t gpa;    /* bytes */
        uint64_t size;   /* bytes */
        uint64_t offset; /* in the memory, bytes */
        bool plugged;    /* came with its memory, and goes with it */
        uint32_t id;     /* for people: stays the same while others come and go, and over a restart */
        const struct numa_policy *numa; /* of its own; NULL: the memory's */
};

enum memory_standing {
        MEMORY_IN,      /* clients are given it */
        MEMORY_LEAVING, /* no more; who has it uses it */
        MEMORY_OUT,
};

/* Why a page is poisoned; kept for the first few thousand pages, the others get the last reason. */
struct poison_reason {
        uint64_t page;
        int error;
};

struct memory {
        uint32_t index;
        char name[PB_NAME_SIZE];
        uint64_t size;         /* bytes */
        uint64_t n_pages;
        uint64_t backing_size; /* bytes */
        uint64_t device, inode; /* of the memfd: how a client recognises it */

        int fd;          /* guest memory, read-write */
        int fd_readonly; /* the same for the read-only role */
        uint8_t *base;   /* our mapping of it */

        int map_fd; /* read-only descriptor of the map, for clients */
        struct pb_map_header *map;
        uint32_t *present; /* inside the map */
        uint32_t *poison;
        uint64_t *data; /* a word a slice; see memory_data_mask() */
        uint64_t *left_out; /* the same; see memory_left_out_mask() */

        struct order_locality locality; /* of cold reads; the pager's */

        struct failing failing; /* its reads; the pager's */

        /* Of the fill, the pager's. */
        uint64_t fill_present;  /* pages when the pass began */
        bool fill_gives_up;     /* the pass before brought nothing: what fails now is left out */
        uint64_t left_out_said; /* as many pages the log has been told of */
        uint64_t left_out_page; /* the first of this pass ... */
        int left_out_error;     /* ... and why; 0: none */

        struct source *source;
        struct checksums *checksums; /* of the source's blocks; NULL: none */
        uint64_t source_offset; /* byte 0 of the memory is this byte of the source */

        struct slice_shard shards[SLICE_SHARDS];

        pthread_mutex_t peers_lock; /* after a shard's lock */
        struct peer *peers[PEERS_PER_MEMORY_MAX];
        unsigned n_peers;

        pthread_mutex_t reasons_lock;
        struct poison_reason *reasons;
        unsigned n_reasons;
        int last_reason;

        atomic_uint_fast64_t pages_present;
        atomic_uint_fast64_t pages_fetched;  /* of the present ones: came from data of the source */
        atomic_uint_fast64_t pages_poisoned;
        atomic_uint_fast64_t pages_left_out; /* absent, and the fill tries them no more */
        atomic_uint_fast64_t pages_in_flight;
        atomic_uint_fast64_t reads_failed;   /* tries */
        atomic_uint_fast64_t pages_data;     /* pages the source has data for; 0 until counted */
        atomic_bool data_is_counted;
        atomic_bool
                counter_is_through; /* nobody asks the source for its extents any more, but who has a page to fetch */
        enum memory_standing standing;       /* the control thread's */
        atomic_bool hidden;                  /* nobody may want a page of it */
        bool pluggable;                      /* it may leave: who maps it is kept in mind also when it is complete */
        atomic_bool closing;                 /* the counting worker gives up */
        atomic_bool source_lost; /* its check has failed: looked at again before every further read */
        bool adopted;                        /* from the broker before: absent pages may have remains in them */
        uint32_t *adopted_bits;              /* what was present then, until it is counted */
        bool completed;                      /* the pager has announced it */
        bool source_has_ended;               /* ... and what read its source is gone; the pager's */
};

struct memory_options {
        const char *vm;   /* goes into the memfds' names */
        const char *name;
        uint64_t size;         /* bytes, a multiple of backing_size */
        uint64_t backing_size; /* 4096, 2 MiB, 1 GiB */
        uint64_t epoch;
        const struct numa_policy *numa; /* NULL: none */
        bool adopt;   /* guest memory that the broker before this one made ... */
        int guest_fd; /* ... is this, taken */
};

/* Makes memfd and map, sealed. On failure `ret_error` is set to a sentence. The source is the caller's to set; it is
 * owned by the memory from then on. */
int memory_new(struct memory **ret, const struct memory_options *options, char **ret_error);

/* Another NUMA policy for a part, in bytes. Before its first page. */
int memory_place(struct memory *memory, uint64_t offset, uint64_t size, const struct numa_policy *policy, char **ret_error);

/* Lets the kernel swap guest memory out, whatever is locked beside it: it is not ours to keep in RAM. */
void memory_unlock(struct memory *memory);

/* Sets the present bits that the map of an earlier epoch has. Before anybody else sees this one. -EPROTO: not such a map. */
int memory_take_bits(struct memory *memory, int map_fd);

/* Accepts and returns NULL. Nothing may be in flight any more. */
struct memory *memory_free(struct memory *memory);

/* Bits of the present (poison) bitmap for one slice; what lies past the end of the memory reads as 0. */
uint64_t memory_present_mask(const struct memory *memory, uint64_t slice);
uint64_t memory_poison_mask(const struct memory *memory, uint64_t slice);

/* Are all pages of [first, first + n) present? */
bool memory_is_present(const struct memory *memory, uint64_t first, uint64_t n);

/* Counts the pages that the source has data for. Slow for a fragmented image: runs on the worker. */
void memory_count_data(struct memory *memory);

/* memory-data.c: those of a slice, all while it has not been counted. */
uint64_t memory_data_mask(const struct memory *memory, uint64_t slice);
/* Absent pages that the fill leaves out. Changed by who owns the pages, or under the shard's lock: whoever brings, poisons or
 * heals them takes them back. */
uint64_t memory_left_out_mask(const struct memory *memory, uint64_t slice);
void memory_leave_out(struct memory *memory, uint64_t slice, uint64_t mask);
void memory_take_back(struct memory *memory, uint64_t slice, uint64_t mask);
int memory_make_data_map(struct memory *memory);
void memory_free_data_map(struct memory *memory);

/* Sets the poison bits of `mask` and remembers why. The caller has the shard's lock. */
void memory_poison(struct memory *memory, uint64_t slice, uint64_t mask, int error);

/* The reasons of [first, first + n), which has been healed. What is poisoned there again by now keeps the latest one. */
void memory_forget_reasons(struct memory *memory, uint64_t first, uint64_t n);

/* Why is this page poisoned? 0 if it is not. */
int memory_poison_reason(struct memory *memory, uint64_t page);
