/* SPDX-License-Identifier: MIT */
/*
 * Where absent pages come from. A source is opened before privileges are dropped, its identity is pinned then, and
 * nothing but what it says under that identity is ever installed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/order-background.h"

struct source;

/* A read that a source makes by itself, into a buffer of its own: never into guest memory (invariant 2). */
struct source_read {
        uint64_t offset; /* bytes, of the source */
        uint32_t length; /* bytes, at most SOURCE_READ_MAX */
        unsigned slot;   /* the source's */
        void *buffer;    /* set by start() */
        int result;      /* bytes read or a negative errno; set before reap() returns it */
        int fd;          /* of a source without reads of its own: where from */
};

/* A base and its layers. */
#define SOURCE_PARTS_MAX 16u

#define SOURCE_READ_MAX (256u << 10)

/*
 * A source without a descriptor that io_uring or a worker could read. All on the pager's thread; none may wait. Every
 * read that start() took comes out of reap() once, forgotten or not, and holds its buffer until release().
 */
struct source_reads {
        /* Polls readable when reap() may have something. */
        int (*get_fd)(struct source *source);
        /* 0, or a negative errno: nothing was started then. Is never called for more than `depth` reads that are not
         * forgotten, nor for more than 2 * `depth` that are not released. */
        int (*start)(struct source *source, struct source_read *read);
        /* Nobody waits for it any more. The source should bring it to an end soon, whatever the other side does. */
        void (*forget)(struct source *source, struct source_read *read);
        /* A cheap look, without a system call. */
        bool (*has_answers)(struct source *source);
        struct source_read *(*reap)(struct source *source);
        void (*release)(struct source *source, struct source_read *read);
        /* Nothing will be read any more, and no read is left to be released: `length` bytes from `offset` on are in guest
         * memory. What the other side is to be told of that is told, then what reads ends. NULL: there is nothing to end. */
        void (*finish)(struct source *source, uint64_t offset, uint64_t length);
        /* With finish(): polls hung up when what reads has ended, in time or before. */
        int (*get_end_fd)(struct source *source);
        /* It may have: then every read under way fails. */
        void (*notice_end)(struct source *source);
        /* -EAGAIN: it has not ended yet. Else what it held has been given back: 0, or -EPIPE if it ended before it was done.
         * Nobody may be in extent() then. */
        int (*end)(struct source *source);
};

struct source_ops {
        const char *scheme;

        /* Of the bytes from `offset` on, at most `length`: are they data or known zeros, and for how long? Never
         * calls zeros what is not; may call data what is zeros. Thread-safe. */
        int (*extent)(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length);

        /* Reads without waiting for a device: returns the bytes that were at hand (a prefix of what was asked),
         * -EAGAIN if none were or the source cannot tell, -EFAULT if `buffer` could not be written. Thread-safe. */
        ssize_t (*read_now)(struct source *source, void *buffer, uint64_t offset, size_t length);

        /* Still what it was when it was opened? -ESTALE if not. Asked after every read and before its bytes are
         * published. Thread-safe. */
        int (*check)(struct source *source);

        /* Which of the pages of [offset, offset + n_pages * 4096) would a read bring into page cache? Bit i is page
         * i; n_pages is at most 64. Zero if that cannot be told. */
        uint64_t (*cold_mask)(struct source *source, uint64_t offset, unsigned n_pages);

        /* Drops from page cache what a read of ours brought there. */
        void (*drop_behind)(struct source *source, uint64_t offset, uint64_t length);

        /* NULL: cold reads are made from `fd`. */
        const struct source_reads *reads;

        /* Has extent() learnt all it will? NULL: yes, from the start. Thread-safe. */
        bool (*extents_known)(struct source *source);

        /* With `wants_installed`: these bytes are in guest memory and will not be asked for again. On the pager's thread. */
        void (*installed)(struct source *source, uint64_t offset, uint64_t length);

        /* The source that a cold read of the page at `offset` is made from. NULL: itself. Thread-safe. */
        struct source *(*leaf)(struct source *source, uint64_t offset);

        void (*free)(struct source *source);
};

/* What tells a source from another one: compared by a broker that carries on (restart.c). */
#define SOURCE_IDENTITY_WORDS 6u

/* Of one that makes its reads by itself. */
enum source_standing {
        SOURCE_READS,
        SOURCE_FINISHES,
        SOURCE_HAS_ENDED,
        SOURCE_IS_LOST, /* ended before it was done */
};

struct source {
        const struct source_ops *ops;
        char *name;    /* for people: "file:/srv/web1.img" */
        int fd;        /* for cold reads by io_uring or a worker; -1 if it has none */
        int direct_fd; /* the same past page cache; 0: none */
        uint64_t size; /* bytes, whole pages */
        bool odd_size; /* ... and a rest, which is no part of it */
        uint64_t identity[SOURCE_IDENTITY_WORDS]; /* set by whoever opens it; the same bytes have the same */
        void (*on_return)(void *data); /* source_watch() */
        void *on_return_data;
        bool is_done;        /* source_new_done() */
        uint64_t pages_data; /* ... how many it had data for */
        bool wants_installed;
        bool may_block; /* a read of `fd` may stop who makes it: never on the pager's thread */
        struct source **parts; /* what it is made of, if it reads nothing by itself; its own */
        unsigned n_parts;

        /* What its reads have cost; the pager's. */
        struct order_link link;
        struct order_background background;

        /* With ops->reads; `depth` is fixed at start, the others are the reader's: */
        unsigned depth; /* reads at once */
        unsigned n_active, n_abandoned;
        enum source_standing standing; /* the pager's */
};

struct source_context {
        const char *vm;   /* for logs */
        const char *user; /* what the broker is going to become; NULL: what it is */
        bool seccomp;
};

/* Opens what `address` ("file:PATH", "nbd:URI") names. On failure `ret_error` (may be NULL) is set to a sentence; free it. */
int source_open(struct source **ret, const char *address, const struct source_context *context, char **ret_error);

/* For sources that lose what they read from (a server, a disk) and know when they have it again: pages that were given up
 * meanwhile are asked for once more. From any thread. */
void source_returned(struct source *source);

/* Who is to be told, of the source and its parts. Before it is in use. */
void source_watch(struct source *source, void (*on_return)(void *data), void *data);

/* Why a read failed, in words: a negative errno of a read, of check(), -ENODATA (ended early), -ETIMEDOUT. */
const char *source_error_text(int error);

/* All zeros: a memory without a source. */
int source_new_zero(struct source **ret, uint64_t size);

/* Of a memory that is complete: says what it was and how many pages of data it had, and is never read. */
int source_new_done(struct source **ret, const char *name, uint64_t size,
                    const uint64_t identity[SOURCE_IDENTITY_WORDS], uint64_t pages_data);

/* Which source a cold read of the page at `offset` is made from: the source itself, or one of its parts. */
struct source *source_leaf(struct source *source, uint64_t offset);

/* The identity of what is known by `data`. */
void source_identify(struct source *source, const void *data, size_t length);

/* Accepts and returns NULL. */
struct source *source_free(struct source *source);
