/* SPDX-License-Identifier: MIT */
#include "broker/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "broker/checksums.h"
#include "broker/events.h"
#include "broker/fetch.h"
#include "broker/install.h"
#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/publish.h"
#include "broker/serve-checked.h"
#include "broker/source.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* Where one claim's pages have come to. */
struct serving {
        uint64_t ready;   /* bytes are in: to be published */
        uint64_t cold;    /* to be queued */
        uint64_t failed;  /* could not be backed: error below */
        uint64_t lost;    /* the source is not what it was */
        uint64_t fetched; /* of the ready ones: from data */
        int error;
};

static uint64_t run_mask(unsigned first, unsigned count) {
        return slice_mask(first, first + count - 1);
}

/*
 * `overwrite`: these pages are data in the source. A broker that was killed may have left a part of it in them, which
 * mincore() does not show once it is swapped out.
 */
static void serve_zero_run(struct memory *memory, uint64_t slice, unsigned first, unsigned count, bool overwrite,
                           struct serving *out) {
        uint64_t page = slice * SLICE_PAGES + first;
        int r = overwrite && memory->adopted ? install_copy(memory, page, count, install_zeros)
                                             : install_zero(memory, page, count);

        if (r < 0) {
                out->failed |= run_mask(first, count);
                out->error = r;
        } else
                out->ready |= run_mask(first, count);
}

/* What was read into memory but is not going to be published: nobody may find it there later (an overwrite leaves a
 * page alone that mincore() calls not resident, and a swapped-out one is that too). */
static void wipe(struct memory *memory, uint64_t page, unsigned n) {
        (void) install_copy(memory, page, n, install_zeros);
}

/* Fresh pages of 4 KiB are backed in one go rather than by a fault each inside the read. */
static int back_for_read(struct memory *memory, uint64_t page, unsigned n) {
        return n > 1 && memory->backing_size == PB_PAGE_BYTES ? install_back(memory, page, n) : 0;
}

/*
 * A synchronous read from page cache straight into memory (invariant 2 allows it: when it returns it is over). A partly
 * read page stays unpublished and is read again.
 */
static void serve_data_run(struct memory *memory, uint64_t slice, unsigned first, unsigned count, struct serving *out) {
        struct source *source = memory->source;
        uint64_t page = slice * SLICE_PAGES + first;
        uint64_t offset = memory->source_offset + page * PB_PAGE_BYTES;
        unsigned done = 0;

        if (atomic_load_explicit(&memory->source_lost, memory_order_relaxed) && source->ops->check(source) < 0) {
                out->lost |= run_mask(first, count); /* no memory for what will not be published */
                return;
        }
        while (done < count) {
                uint64_t at = offset + done * PB_PAGE_BYTES;
                uint64_t cold = source->ops->cold_mask(source, at, count - done);
                unsigned hot = cold ? (unsigned) __builtin_ctzll(cold) : count - done;
                ssize_t n;

                /* Only up to the first page that page cache lacks: memory is not given to pages that must wait, and a
                 * read beyond it, which would not wait, would still start readahead, and what that has brought by the
                 * time the page is read for good passes for somebody else's, whom nobody drops. A single page gets its memory inside the read, and only if there is something to be copied. */
                if (hot == 0) {
                        out->cold |= run_mask(first + done, count - done);
                        break;
                }
                n = back_for_read(memory, page + done, hot);
                if (n == 0)
                        n = source->ops->read_now(source, install_target(memory, page + done), at, hot * PB_PAGE_BYTES);
                if (n == -EFAULT || n == -ENOMEM) {
                        out->failed |= run_mask(first + done, count - done);
                        out->error = -ENOMEM;
                        break;
                }
                if (n < (ssize_t) PB_PAGE_BYTES) { /* -EAGAIN, or less than a page */
                        if (n > 0)
                                wipe(memory, page + done, 1);
                        out->cold |= run_mask(first + done, count - done);
                        break;
                }
                done += (unsigned) ((uint64_t) n / PB_PAGE_BYTES);
                if ((uint64_t) n % PB_PAGE_BYTES)
                        wipe(memory, page + done, 1);
        }
        if (done == 0)
                return;
        /* After the bytes and before the bit: what was changed before we read has changed the identity by now. */
        if (source->ops->check(source) < 0) {
                wipe(memory, page, done);
                out->lost |= run_mask(first, done);
        } else {
                out->ready |= run_mask(first, done);
                out->fetched |= run_mask(first, done);
        }
}

/* With checksums a block is read whole, or known to be zeros. */
static void serve_checked_run(struct memory *memory, uint64_t slice, unsigned first, unsigned count,
                              struct serving *out) {
        uint64_t mask = run_mask(first, count);
        struct checked checked = {};

        while (mask) {
                uint64_t block = checksums_block(memory, slice, mask), part = mask & block;

                mask_first_run(part, &first, &count);
                if (checksums_is_zero(memory, slice, block))
                        serve_zero_run(memory, slice, first, count, true, out);
                else
                        serve_checked_block(memory, slice, block, part, &checked);
                mask &= ~part;
        }
        if (checked.failed)
                out->error = -ENOMEM;
        out->ready |= checked.ready;
        out->fetched |= checked.ready;
        out->cold |= checked.cold;
        out->failed |= checked.failed;
}

static void serve_run(struct memory *memory, uint64_t slice, unsigned first, unsigned count, unsigned flags,
                      struct serving *out) {
        uint64_t offset = memory->source_offset + (slice * SLICE_PAGES + first) * PB_PAGE_BYTES;

        if (flags & SERVE_ZERO) {
                serve_zero_run(memory, slice, first, count, true, out);
                return;
        }
        if (memory->checksums) {
                if (memory->source->ops->check(memory->source) < 0)
                        out->lost |= run_mask(first, count);
                else
                        serve_checked_run(memory, slice, first, count, out);
                return;
        }
        while (count > 0) {
                uint64_t length = count * PB_PAGE_BYTES;
                bool data = true;
                unsigned n;

                if (memory->source->ops->extent(memory->source, offset, length, &data, &length) < 0) {
                        data = true;
                        length = count * PB_PAGE_BYTES;
                }
                /* A page that is partly data is data. */
                n = (unsigned) (data ? align_up(length, PB_PAGE_BYTES) / PB_PAGE_BYTES : length / PB_PAGE_BYTES);
                if (n == 0) {
                        n = 1;
                        data = true;
                }
                if (data)
                        serve_data_run(memory, slice, first, n, out);
                else if (memory->source->ops->check(memory->source) < 0)
                        /* A file that was truncated shows holes where its data was. */
                        out->lost |= run_mask(first, n);
                else
                        serve_zero_run(memory, slice, first, n, false, out);
                first += n;
                count -= n;
                offset += n * PB_PAGE_BYTES;
        }
}

static void count_fetched(struct pager *pager, struct memory *memory, uint64_t fetched) {
        unsigned n = (unsigned) __builtin_popcountll(fetched);

        atomic_fetch_add_explicit(&memory->pages_fetched, n, memory_order_relaxed);
        atomic_fetch_add_explicit(&pager->bytes_fetched, n * PB_PAGE_BYTES, memory_order_relaxed);
}

/* True: also to be told to others, who are spared like the log. */
static bool log_poison(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, int error,
                       uint32_t *ret_left_out) {
        uint64_t page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask);

        if (!log_limit_pass(&pager->poison_limit, ret_left_out))
                return false;
        log_event(LOG_ERR, (.id = EVENT_POISONED, .memory = memory->name),
                  "memory %s: page %" PRIu64 " (offset 0x%llx) and %d more poisoned: source %s: %s%s", memory->name,
                  page, page * PB_PAGE_BYTES, __builtin_popcountll(mask) - 1, memory->source->name,
                  source_error_text(error), *ret_left_out ? " (more lines like this were left out)" : "");
        return true;
}

/*
 * The last try has failed. Only pages that somebody stands still for are poisoned: what only a hint, the fill or a
 * client that has left wanted is absent again, and the next who wants it tries again. A demand that joined a
 * hint's read has not had its own tries yet: it gets them.
 */
static void note_lost(struct pager *pager, struct memory *memory) {
        if (atomic_exchange_explicit(&memory->source_lost, true, memory_order_relaxed))
                return;
        log_event(LOG_ERR, (.id = EVENT_SOURCE_LOST, .memory = memory->name),
                  "memory %s: source %s: %s; pages that are still absent cannot be had", memory->name,
                  memory->source->name, source_error_text(-ESTALE));
        if (pager->events.source_lost)
                pager->events.source_lost(pager->events.data, memory);
}

static void give_up(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, int error,
                    enum request_class class) {
        /* Of a source that has changed everything would be left out, and that has been said. */
        bool tell, leave_out = class == CLASS_FILL && error != -ESTALE && memory->fill_gives_up;
        uint32_t left_out;
        uint64_t demanded;

        if (error == -ESTALE)
                note_lost(pager, memory);
        demanded = publish_unwanted(memory, slice, mask, error, leave_out);
        if (leave_out && mask != demanded && !memory->left_out_error) {
                memory->left_out_page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask & ~demanded);
                memory->left_out_error = error;
        }
        if (!demanded)
                return;
        if (!class_is_demand(class) && error != -ESTALE) {
                serve_cold(pager, memory, slice, demanded, CLASS_DEVICE, 0);
                return;
        }
        tell = log_poison(pager, memory, slice, demanded, error, &left_out);
        publish_poison(memory, slice, demanded, error);
        if (tell && pager->events.poisoned)
                pager->events.poisoned(pager->events.data, memory, slice, demanded, error, left_out);
}

void serve_claimed(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t claimed,
                   enum request_class class, unsigned flags) {
        struct serving out = {};

        KILL_POINT("claimed");

        for (uint64_t rest = claimed; rest;) {
                unsigned first, count;

                mask_first_run(rest, &first, &count);
                serve_run(memory, slice, first, count, flags, &out);
                rest &= ~run_mask(first, count);
        }
        assert((out.ready | out.cold | out.failed | out.lost) == claimed);
        count_fetched(pager, memory, out.fetched);
        if (out.ready)
                publish_pages(pager, memory, slice, out.ready,
                              memory->backing_size > PB_PAGE_BYTES ? out.ready : out.fetched);
        if (out.cold)
                serve_cold(pager, memory, slice, out.cold, class, 0);
        if (out.failed)
                publish_failure(memory, slice, out.failed, out.error);
        if (out.lost)
                give_up(pager, memory, slice, out.lost, -ESTALE, class);
}

/* Pages further apart than this are not read together. */
#define COLD_GAP_PAGES 8u

/* The pages of a run that come from the same place as its first one. */
static unsigned count_same_leaf(const struct memory *memory, uint64_t slice, unsigned first, unsigned count) {
        uint64_t offset = memory->source_offset + (slice * SLICE_PAGES + first) * PB_PAGE_BYTES;
        const struct source *leaf;
        unsigned n = 1;

        if (!memory->source->ops->leaf)
                return count;
        leaf = source_leaf(memory->source, offset);
        while (n < count && source_leaf(memory->source, offset + n * PB_PAGE_BYTES) == leaf)
                n++;
        return n;
}

static bool are_same_leaf(const struct memory *memory, uint64_t slice, unsigned a, unsigned b) {
        uint64_t offset = memory->source_offset + slice * SLICE_PAGES * PB_PAGE_BYTES;

        return source_leaf(memory->source, offset + a * PB_PAGE_BYTES) ==
               source_leaf(memory->source, offset + b * PB_PAGE_BYTES);
}

void serve_cold(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, enum request_class class,
                unsigned attempt) {
        while (mask) {
                uint64_t part = 0, rest = mask;
                unsigned first, count, end = 0;
                struct fetch *fetch;

                while (rest) {
                        mask_first_run(rest, &first, &count);
                        if (part && (first - end > COLD_GAP_PAGES || !are_same_leaf(memory, slice, end - 1, first)))
                                break;
                        count = count_same_leaf(memory, slice, first, count);
                        part |= run_mask(first, count);
                        rest &= ~run_mask(first, count);
                        end = first + count;
                }
                mask &= ~part;
                fetch = fetch_new(&pager->fetch_queue, memory, slice, part, class, attempt);
                if (fetch)
                        slice_queue(memory, slice, part, fetch, true);
                else
                        publish_failure(memory, slice, part, -ENOMEM);
        }
}

static void note_failing(struct memory *memory, uint64_t slice, uint64_t mask, int error, uint64_t now_us) {
        uint64_t page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask);

        if (error == -ESTALE || !failing_again(&memory->failing, now_us))
                return;
        log_event(LOG_WARNING, (.id = EVENT_SOURCE_FAILS, .memory = memory->name),
                  "memory %s: source %s: reads fail and are tried again; the first was of page %" PRIu64 " (offset 0x%llx): %s",
                  memory->name, memory->source->name, page, page * PB_PAGE_BYTES, source_error_text(error));
}

static void note_answer(struct memory *memory, bool is_retry) {
        uint64_t now_us;
        struct failing was;

        if (memory->failing.n == 0)
                return;
        now_us = clock_now_us();
        if (failing_no_more(&memory->failing, is_retry, now_us, &was))
                log_event(LOG_NOTICE, (.id = EVENT_SOURCE_ANSWERS, .memory = memory->name),
                          "memory %s: source %s can be read again; %" PRIu64 " reads had failed in %llu.%03u s", memory->name,
                          memory->source->name, was.n, (unsigned long long) ((now_us - was.since_us) / USEC_PER_SEC),
                          (unsigned) ((now_us - was.since_us) % USEC_PER_SEC / 1000));
}

/* Another try for pages that the caller owns. One page at a time after an error, so that one bad page does not take
 * its neighbours along; in one piece after silence, so that one slow spot does not take every buffer. */
static void retry(struct pager *pager, struct memory *memory, uint64_t slice, uint64_t mask, const struct fetch *failed,
                  int error) {
        const struct retry_state state = fetch_retry_state(failed);
        const uint64_t now_us = clock_now_us();
        uint64_t due_us;

        if (!mask)
                return;
        atomic_fetch_add_explicit(&memory->reads_failed, 1, memory_order_relaxed);
        trail_failed(&pager->trail, memory->index, slice, mask, state.attempt + 1, error, now_us);
        note_failing(memory, slice, mask, error, now_us);
        if (!retry_again(&pager->options.retry, &state, error, now_us, &due_us)) {
                give_up(pager, memory, slice, mask, error, failed->class);
                return;
        }
        while (mask) {
                uint64_t part = error == -ETIMEDOUT ? mask
                                : memory->checksums ? mask & checksums_block(memory, slice, mask)
                                                    : mask & -mask;

                pager_retry_later(pager, failed, part, due_us);
                mask &= ~part;
        }
}

/* Whole pages that the read brought. */
static uint64_t fetch_got_mask(const struct fetch *fetch) {
        unsigned first = (unsigned) __builtin_ctzll(fetch->read_mask);
        unsigned n = fetch->read.result > 0 ? (unsigned) ((uint64_t) fetch->read.result / PB_PAGE_BYTES) : 0;

        if (n > fetch_n_pages(fetch)) /* a source that claims more than it was asked for */
                n = fetch_n_pages(fetch);
        return n ? run_mask(first, n) : 0;
}

/* After the bits: the source may forget the bytes now. */
static void say_installed(const struct fetch *fetch, uint64_t mask) {
        unsigned first, count, base = (unsigned) __builtin_ctzll(fetch->read_mask);

        if (!fetch->source->wants_installed)
                return;
        while (mask) {
                mask_first_run(mask, &first, &count);
                fetch->source->ops->installed(fetch->source, fetch->read.offset + (first - base) * PB_PAGE_BYTES,
                                              count * PB_PAGE_BYTES);
                mask &= ~run_mask(first, count);
        }
}

void serve_fetched(struct pager *pager, struct fetch *fetch) {
        struct memory *memory = fetch->memory;
        uint64_t ours = slice_start_install(memory, fetch->slice, fetch);
        uint64_t got = fetch_got_mask(fetch), wrong = 0, rest, failed = 0;
        unsigned base = (unsigned) __builtin_ctzll(fetch->read_mask);
        int r, error = 0;

        if (!ours) {
                log_debug("memory %s: a late answer for slice %" PRIu64 " was thrown away", memory->name, fetch->slice);
                return;
        }
        /* Truncated, rewritten, or simply too short. */
        r = memory->source->ops->check(memory->source);
        if (r < 0) {
                retry(pager, memory, fetch->slice, ours, fetch, r);
                return;
        }
        if (memory->checksums)
                got = fetch_verify(fetch, got & fetch->read_mask, &wrong);
        got &= ours;
        for (rest = got; rest;) {
                unsigned first, count;

                mask_first_run(rest, &first, &count);
                r = install_copy(memory, fetch->slice * SLICE_PAGES + first, count,
                                 (char *) fetch->read.buffer + (first - base) * PB_PAGE_BYTES);
                if (r < 0) {
                        wipe(memory, fetch->slice * SLICE_PAGES + first, count);
                        failed |= run_mask(first, count);
                        error = r;
                }
                rest &= ~run_mask(first, count);
        }
        got &= ~failed;
        count_fetched(pager, memory, got);
        if (got) {
                publish_pages(pager, memory, fetch->slice, got, got);
                note_answer(memory, fetch->attempt > 0);
                say_installed(fetch, got);
        }
        if (failed)
                publish_failure(memory, fetch->slice, failed, error);
        retry(pager, memory, fetch->slice, ours & wrong, fetch, -EBADMSG);
        ours &= ~(got | failed | wrong);
        if (fetch->read.result < 0)
                error = fetch->read.result;
        else
                error = -ENODATA; /* the source ended before its own size */
        retry(pager, memory, fetch->slice, ours, fetch, error);
}

void serve_late(struct pager *pager, struct fetch *fetch) {
        uint64_t ours = slice_start_install(fetch->memory, fetch->slice, fetch);

        retry(pager, fetch->memory, fetch->slice, ours, fetch, -ETIMEDOUT);
}
