/* SPDX-License-Identifier: MIT */
/* An NBD server that breaks the protocol where it is told to. One export, of an image; a process for each connection. */
#pragma once

#include "tests/lib/image.h"
#include "tests/lib/nbd.h"

enum lie {
        LIE_NONE,
        LIE_SHORT,        /* half of the data, and "done" */
        LIE_LONG,         /* a chunk of more than was asked for */
        LIE_OFFSET,       /* a chunk that lies outside */
        LIE_COOKIE,       /* an answer to what was not asked */
        LIE_MAGIC,        /* noise */
        LIE_HANG_UP,      /* the end in the middle of an answer */
        LIE_SILENT,       /* no answer to this request, and to all others */
        LIE_DEAF,         /* no answer at all from there on */
        LIE_BACKWARDS,    /* answers in the other order, four at a time: allowed */
        LIE_EXTENTS_LONG, /* all is zeros, it says, for longer than the export; what has data is said to be data */
        LIE_EXTENTS_ODD,  /* extents that begin and end inside pages: true ones */
};

struct liar {
        struct test_nbd nbd; /* its socket */
        const struct test_image *image;
        enum lie lie;
        uint64_t page;  /* where a read must touch to be lied to */
        int times;      /* how often; -1: always */
        struct liar_shared *shared;
};

/* `liar` has image, lie, page and times set. */
void liar_start(struct liar *liar);
void liar_stop(struct liar *liar);
/* How many reads it has lied to. */
unsigned liar_count(const struct liar *liar);
