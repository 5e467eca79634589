/* SPDX-License-Identifier: MIT */
/* Sources that make their reads by themselves: they are reaped with the others, and end when their memory is complete. */
#include <errno.h>
#include <sys/epoll.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/source.h"
#include "common/log.h"

int pager_add_source(struct pager *pager, struct source *source) {
        int r;

        for (unsigned i = 0; i < source->n_parts; i++) {
                r = pager_add_source(pager, source->parts[i]);
                if (r < 0)
                        return r;
        }
        if (!source->ops->reads)
                return 0;
        r = reader_add_source(pager->reader, source);
        /* Edge-triggered and never read, as a doorbell: it is shared with another process. */
        if (r == 0)
                r = pager_watch(pager, source->ops->reads->get_fd(source), EPOLLIN | EPOLLET, source);
        if (r == 0 && source->ops->reads->finish)
                r = pager_watch(pager, source->ops->reads->get_end_fd(source), EPOLLIN | EPOLLRDHUP | EPOLLET, &pager->source_ended);
        return r;
}

static void source_look_for_end(struct source *source) {
        int r = source->ops->reads->end(source);

        if (r == -EAGAIN)
                return;
        source->standing = r < 0 ? SOURCE_IS_LOST : SOURCE_HAS_ENDED;
        if (r < 0)
                log_warning("source %s: its helper ended before it was done; what the server could give back it may keep",
                            source->name);
}

struct ends {
        bool look; /* some may have ended */
        unsigned n, n_left, n_lost;
};

static void source_step(struct pager *pager, const struct memory *memory, struct source *source, struct ends *ends) {
        for (unsigned i = 0; i < source->n_parts; i++)
                source_step(pager, memory, source->parts[i], ends);
        if (!source->ops->reads || !source->ops->reads->finish)
                return;
        if (source->standing == SOURCE_READS && ends->look)
                source->ops->reads->notice_end(source);
        /* A late answer may still be written into one of its buffers. */
        if (source->standing == SOURCE_READS && memory->completed && source->n_active + source->n_abandoned == 0) {
                source->standing = SOURCE_FINISHES;
                source->ops->reads->finish(source, memory->source_offset, memory->size);
                ends->look = true; /* it may have ended long ago, and nothing would wake us */
        }
        if (source->standing == SOURCE_FINISHES && ends->look) {
                if (atomic_load_explicit(&memory->counter_is_through, memory_order_acquire))
                        source_look_for_end(source);
                else
                        pager->source_ended = true; /* that still asks where there is data, and will poke us */
        }
        ends->n++;
        ends->n_left += source->standing < SOURCE_HAS_ENDED;
        ends->n_lost += source->standing == SOURCE_IS_LOST;
}

void pager_end_sources(struct pager *pager) {
        bool look = pager->source_ended;

        pager->source_ended = false;
        for (unsigned i = 0; i < pager->n_memories; i++) {
                struct memory *memory = pager->memories[i];
                struct ends ends = { .look = look };

                if (memory->source_has_ended || (!memory->completed && !look))
                        continue;
                source_step(pager, memory, memory->source, &ends);
                if (!memory->completed || ends.n_left > 0)
                        continue;
                /* What it has data for can be asked no more then: the counter will poke us. */
                if (!atomic_load_explicit(&memory->counter_is_through, memory_order_acquire))
                        continue;
                memory->source_has_ended = true;
                if (ends.n_lost > 0)
                        continue;
                /* A file too: it may be removed now, and the next broker must not look for it. */
                if (pager->events.source_done)
                        pager->events.source_done(pager->events.data, memory);
                if (ends.n > 0 || memory->source->fd >= 0 || memory->source->n_parts > 0)
                        log_info("memory %s: nothing is left to be read of %s%s", memory->name, memory->source->name,
                                 ends.n > 0 ? "; what read it has ended" : "");
        }
}
