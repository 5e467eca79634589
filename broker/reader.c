/* SPDX-License-Identifier: MIT */
#include "broker/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "broker/fetch.h"
#include "broker/reader-engine.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/message.h"
#include "protocol/presence.h"

#define BUFFER_SIZE (FETCH_PAGES_MAX * PB_PAGE_BYTES)

static const struct reader_engine *const engines[] = {
        [READER_URING] = &reader_uring,
        [READER_THREADS] = &reader_threads,
};

struct reader {
        const struct reader_engine *engine;
        void *state;
        unsigned depth;     /* reads under way at once */
        unsigned n_buffers; /* 2 * depth */
        uint8_t *buffers;   /* untouched ones cost nothing */
        void **free_buffers; /* a stack, so that few buffers stay hot */
        unsigned n_free;
        unsigned n_active, n_abandoned;
        struct source *sources[PB_MEMORIES_MAX * SOURCE_PARTS_MAX]; /* that make their reads by themselves */
        unsigned n_sources;
};

static_assert(SOURCE_READ_MAX == BUFFER_SIZE, "a fetch is at most a slice");

int reader_new(struct reader **ret, enum reader_kind kind, unsigned depth) {
        struct reader *reader = calloc(1, sizeof *reader);
        int r = -ENOMEM;

        if (!reader)
                return -ENOMEM;
        reader->depth = depth;
        reader->n_buffers = 2 * depth;
        reader->free_buffers = calloc(reader->n_buffers, sizeof *reader->free_buffers);
        reader->buffers = mmap(NULL, reader->n_buffers * BUFFER_SIZE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        /* A disk takes a buffer in one piece then, rather than in 64: twice as quick on some. */
        if (reader->buffers != MAP_FAILED)
                (void) madvise(reader->buffers, reader->n_buffers * BUFFER_SIZE, MADV_HUGEPAGE);
        if (!reader->free_buffers || reader->buffers == MAP_FAILED)
                goto fail;
        for (unsigned i = 0; i < reader->n_buffers; i++)
                reader->free_buffers[reader->n_free++] =
                        reader->buffers + (size_t) (reader->n_buffers - 1 - i) * BUFFER_SIZE;
        reader->engine = engines[kind == READER_THREADS ? READER_THREADS : READER_URING];
        r = reader->engine->open(&reader->state, reader->n_buffers);
        if (r < 0 && kind == READER_AUTO) {
                reader->engine = engines[READER_THREADS];
                r = reader->engine->open(&reader->state, reader->n_buffers);
        }
        if (r < 0)
                goto fail;
        reader->depth = (unsigned) min_u64(depth, reader->engine->max_depth);
        *ret = reader;
        return 0;

fail:
        if (reader->buffers && reader->buffers != MAP_FAILED)
                (void) munmap(reader->buffers, reader->n_buffers * BUFFER_SIZE);
        free(reader->free_buffers);
        free(reader);
        return r;
}

void reader_retire(struct reader *reader) {
        assert(reader->n_free == reader->n_buffers && reader->n_active == 0);
        reader->engine->close(PTR_TAKE(reader->state));
        (void) munmap(PTR_TAKE(reader->buffers), reader->n_buffers * BUFFER_SIZE);
}

struct reader *reader_free(struct reader *reader) {
        if (!reader)
                return NULL;
        if (reader->state)
                reader->engine->close(reader->state);
        /* A read that is still under way may land in its buffer until the process is gone. */
        if (reader->buffers && reader->n_free == reader->n_buffers)
                (void) munmap(reader->buffers, reader->n_buffers * BUFFER_SIZE);
        free(reader->free_buffers);
        free(reader);
        return NULL;
}

const char *reader_name(const struct reader *reader) {
        return reader->engine->name;
}

int reader_get_fd(struct reader *reader) {
        return reader->engine->get_fd(reader->state);
}

int reader_add_source(struct reader *reader, struct source *source) {
        if (!source->ops->reads)
                return 0;
        if (reader->n_sources == ELEMENTS(reader->sources))
                return -ENOSPC;
        reader->sources[reader->n_sources++] = source;
        return 0;
}

static enum reader_room get_room(unsigned depth, unsigned n_active, unsigned n_abandoned, bool demand) {
        unsigned n_free = 2 * depth - n_active - n_abandoned;

        if (n_free == 0 && n_active == 0)
                return READER_STUCK;
        return n_free > 0 && n_active < (demand ? depth : (depth + 1) / 2) ? READER_HAS_ROOM : READER_FULL;
}

enum reader_room reader_get_room(const struct reader *reader, const struct source *source, bool demand) {
        if (source->ops->reads)
                return get_room(source->depth, source->n_active, source->n_abandoned, demand);
        return get_room(reader->depth, reader->n_active, reader->n_abandoned, demand);
}

bool reader_is_full(const struct reader *reader) {
        if (!reader->state)
                return true;
        if (get_room(reader->depth, reader->n_active, reader->n_abandoned, true) != READER_FULL)
                return false;
        for (unsigned i = 0; i < reader->n_sources; i++)
                if (reader_get_room(reader, reader->sources[i], true) != READER_FULL)
                        return false;
        return true;
}

static int engine_submit(struct reader *reader, struct fetch *fetch) {
        struct source_read *read = &fetch->read;
        int r;

        assert(reader->n_free > 0);
        read->buffer = reader->free_buffers[--reader->n_free];
        r = reader->engine->submit(reader->state, fetch);
        if (r < 0)
                reader->free_buffers[reader->n_free++] = PTR_TAKE(read->buffer);
        return r;
}

int reader_submit(struct reader *reader, struct fetch *fetch) {
        struct source *source = fetch->source;
        int r;

        assert(fetch->read.length <= BUFFER_SIZE);
        r = source->ops->reads ? source->ops->reads->start(source, &fetch->read) : engine_submit(reader, fetch);
        if (r < 0)
                return r;
        if (source->ops->reads)
                source->n_active++;
        else
                reader->n_active++;
        return 0;
}

void reader_flush(struct reader *reader) {
        if (reader->state)
                reader->engine->flush(reader->state);
}

bool reader_has_answers(struct reader *reader) {
        for (unsigned i = 0; i < reader->n_sources; i++)
                if (reader->sources[i]->ops->reads->has_answers(reader->sources[i]))
                        return true;
        return reader->state && reader->engine->has_answers(reader->state);
}

struct fetch *reader_reap(struct reader *reader) {
        for (unsigned i = 0; i < reader->n_sources; i++) {
                struct source_read *read = reader->sources[i]->ops->reads->reap(reader->sources[i]);

                if (read)
                        return CONTAINER_OF(read, struct fetch, read);
        }
        return reader->state ? reader->engine->reap(reader->state) : NULL;
}

void reader_release(struct reader *reader, struct fetch *fetch) {
        struct source *source = fetch->source;
        unsigned *n_active = &reader->n_active, *n_abandoned = &reader->n_abandoned;

        if (source->ops->reads) {
                source->ops->reads->release(source, &fetch->read);
                n_active = &source->n_active;
                n_abandoned = &source->n_abandoned;
        } else
                reader->free_buffers[reader->n_free++] = PTR_TAKE(fetch->read.buffer);
        (*(fetch->abandoned ? n_abandoned : n_active))--;
}

void reader_abandon(struct reader *reader, struct fetch *fetch) {
        struct source *source = fetch->source;

        fetch->abandoned = true;
        if (source->ops->reads) {
                source->n_active--;
                source->n_abandoned++;
                source->ops->reads->forget(source, &fetch->read);
        } else {
                reader->n_active--;
                reader->n_abandoned++;
        }
}
