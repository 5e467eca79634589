/* SPDX-License-Identifier: MIT */
#include "broker/request.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/recorder.h"
#include "broker/serve.h"
#include "common/cleanup.h"
#include "common/macro.h"

/*
 * While the driver owns a request (issues it, has it in a list), `outstanding` is OWNED plus the number of active
 * waits, so that no thread that satisfies a wait can bring it to 0. Parking takes OWNED off, and `parked_at` more, so
 * that 0 is reached when only `parked_at` waits are left: exactly one thread sees that, and pushes the request into
 * the inbox. If 0 or less is reached by parking itself nobody else will see it, and the driver goes on.
 *
 * A thread's decrement is its last touch of the request unless it is the one that sees 0: the driver frees a request
 * only after the inbox gave it back (or after parking it itself), and then no wait is active.
 */
#define OWNED (1l << 32)

static _Thread_local struct driver *driver_current;

int driver_init(struct driver *driver) {
        *driver = (struct driver) { .eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
        if (driver->eventfd < 0)
                return -errno;
        (void) pthread_mutex_init(&driver->lock, NULL);
        return 0;
}

void driver_done(struct driver *driver) {
        driver->eventfd = fd_close(driver->eventfd);
        (void) pthread_mutex_destroy(&driver->lock);
}

void driver_enter(struct driver *driver) {
        driver_current = driver;
}

bool driver_is_current(const struct driver *driver) {
        return driver_current == driver;
}

void driver_signal(struct driver *driver) {
        /* Always set, or a driver that finds work for itself late in its turn would sleep on it; written only for
         * other threads, because a driver looks at the flag before it sleeps. */
        if (!__atomic_exchange_n(&driver->signalled, true, __ATOMIC_ACQ_REL) && driver_current != driver)
                (void) !write(driver->eventfd, &(uint64_t) { 1 }, sizeof(uint64_t));
}

void driver_push(struct driver *driver, struct request *request) {
        (void) pthread_mutex_lock(&driver->lock);
        request->inbox_next = NULL;
        if (driver->tail)
                driver->tail->inbox_next = request;
        else
                driver->head = request;
        driver->tail = request;
        /* Before the unlock: once it can be taken, a peer's thread that is about to end may complete its last request
         * and free the driver. */
        driver_signal(driver);
        (void) pthread_mutex_unlock(&driver->lock);
}

struct request *driver_take(struct driver *driver) {
        struct request *list;

        (void) pthread_mutex_lock(&driver->lock);
        list = driver->head;
        driver->head = driver->tail = NULL;
        (void) pthread_mutex_unlock(&driver->lock);
        return list;
}

int request_init(struct request *request, struct driver *driver, enum request_class class, unsigned window,
                 const struct request_ops *ops) {
        assert(window >= 1 && window <= REQUEST_WINDOW_MAX);
        request->driver = driver;
        request->class = class;
        request->ops = ops;
        request->window = window;
        request->waits = request->inline_waits;
        if (window > REQUEST_WAITS_INLINE) {
                request->waits = calloc(window, sizeof *request->waits);
                if (!request->waits)
                        return -ENOMEM;
        }
        for (unsigned i = 0; i < window; i++)
                request->waits[i] = (struct wait) { .request = request };
        atomic_init(&request->outstanding, OWNED);
        atomic_init(&request->result, 0);
        return 0;
}

void request_done(struct request *request) {
        if (request->waits != request->inline_waits)
                free(request->waits);
        request->waits = NULL;
}

int request_result(struct request *request) {
        return atomic_load_explicit(&request->result, memory_order_relaxed);
}

static void request_fail(struct request *request, int error) {
        int none = 0;

        (void) atomic_compare_exchange_strong(&request->result, &none, error);
}

static struct wait *request_free_wait(struct request *request) {
        for (unsigned i = 0; i < request->window; i++)
                if (!__atomic_load_n(&request->waits[i].active, __ATOMIC_ACQUIRE))
                        return &request->waits[i];
        return NULL;
}

static bool request_all_issued(const struct request *request) {
        return request->range >= request->n_ranges;
}

static enum request_step request_park(struct request *request) {
        bool more = !request_all_issued(request) && request_result(request) == 0;

        request->parked_at = more ? request->window / 2 : 0;
        request->parked = true;
        if (atomic_fetch_sub(&request->outstanding, OWNED + request->parked_at) > OWNED + request->parked_at)
                return REQUEST_PARKED;
        (void) atomic_fetch_add(&request->outstanding, OWNED + request->parked_at);
        request->parked = false;
        return more ? REQUEST_MORE : REQUEST_DECIDED;
}

void request_resume(struct request *request) {
        enum request_step step = REQUEST_MORE;

        (void) atomic_fetch_add(&request->outstanding, OWNED + request->parked_at);
        request->parked = false;
        if (request_all_issued(request) || request_result(request) < 0)
                step = request_park(request);
        if (step == REQUEST_MORE)
                request->ops->more(request);
        else if (step == REQUEST_DECIDED && request->forgotten)
                request->ops->forgotten(request);
        else if (step == REQUEST_DECIDED)
                request->ops->complete(request, request_result(request));
}

void request_list(struct request **list, struct request *request) {
        assert(!request->list);
        DL_APPEND(*list, request);
        request->list = list;
}

void request_unlist(struct request *request) {
        if (!request->list)
                return;
        DL_DELETE(*request->list, request);
        request->list = NULL;
}

unsigned request_count_slices(const struct request *request, unsigned max) {
        uint64_t n = 0;

        for (unsigned i = 0; i < request->n_ranges; i++) {
                const struct page_range *range = &request->ranges[i];

                n += slice_of(range->first + range->count - 1) - slice_of(range->first) + 1;
        }
        return (unsigned) min_u64(n, max);
}

/* A request over a TiB that is present must not keep its driver from its other work. */
#define SKIP_PAGES_MAX (1ull << 16)

/* Skips what is present, without locks: the common rest of a range that somebody else fetched meanwhile. False: there may
 * be more of it. */
static bool request_skip_present(struct request *request, struct page_range *range) {
        for (uint64_t begin = request->done; request->done < range->count;) {
                uint64_t page = range->first + request->done, slice = slice_of(page);
                uint64_t last = min_u64(page | (SLICE_PAGES - 1), range->first + range->count - 1);
                uint64_t mask = slice_mask(page, last);

                if ((memory_present_mask(range->memory, slice) & mask) != mask)
                        return true;
                if (request->done - begin > SKIP_PAGES_MAX)
                        return false;
                request->done += last - page + 1;
        }
        return true;
}

/* What a demand finds absent is part of the working set. Overwritten pages are not: nobody needs what they held. */
static void request_record(const struct pager *pager, const struct request *request, const struct page_range *range,
                           uint64_t slice, uint64_t mask) {
        uint64_t absent = mask & ~memory_present_mask(range->memory, slice);

        if (absent && !range->overwrite && class_is_demand(request->class))
                recorder_note(pager->recorder, range->memory, slice, absent, request->origin, request->class);
}

enum request_step request_issue(struct pager *pager, struct request *request, unsigned max_slices) {
        assert(!request->parked);
        while (max_slices > 0 && !request_all_issued(request) && request_result(request) == 0) {
                struct page_range *range = &request->ranges[request->range];
                uint64_t page, slice, last, mask, claimed;
                struct wait *wait;
                int r;

                if (!request_skip_present(request, range))
                        break;
                if (request->done == range->count) {
                        request->range++;
                        request->done = 0;
                        continue;
                }
                wait = request_free_wait(request);
                if (!wait)
                        return request_park(request);
                page = range->first + request->done;
                slice = slice_of(page);
                last = min_u64(page | (SLICE_PAGES - 1), range->first + range->count - 1);
                if (request->piece)
                        last = min_u64(last, page | (request->piece - 1));
                if (request->origin && recorder_is_on(pager->recorder))
                        request_record(pager, request, range, slice, slice_mask(page, last));
                /* Counted before it is attached: it may be satisfied at once. */
                (void) atomic_fetch_add(&request->outstanding, 1);
                mask = slice_mask(page, last);
                if (request->class == CLASS_FILL)
                        mask &= ~memory_left_out_mask(range->memory, slice);
                r = slice_want(range->memory, slice, mask,
                               range->overwrite         ? SLICE_TAKE_OVER
                               : request->best_effort ? SLICE_SKIP_POISONED
                                                      : 0,
                               wait, &claimed);
                if (r <= 0)
                        (void) atomic_fetch_sub(&request->outstanding, 1);
                if (r < 0) {
                        request_fail(request, r);
                        break;
                }
                if (r > 0 && claimed)
                        serve_claimed(pager, range->memory, slice, claimed, request->class,
                                      range->overwrite ? SERVE_ZERO : 0);
                request->done += last - page + 1;
                max_slices--;
        }
        if (request_all_issued(request) || request_result(request) < 0)
                return request_park(request);
        return REQUEST_MORE;
}

void waits_done(struct wait *list) {
        while (list) {
                struct wait *wait = list;
                struct request *request = wait->request;

                list = wait->next;
                if (wait->result < 0 && !request->best_effort)
                        request_fail(request, wait->result);
                __atomic_store_n(&wait->active, false, __ATOMIC_RELEASE);
                if (atomic_fetch_sub(&request->outstanding, 1) == 1)
                        driver_push(request->driver, request);
        }
}

bool request_forget(struct request *request) {
        bool crossed = false;

        request->forgotten = true;
        request_fail(request, -ECANCELED);
        if (request->parked)
                /* From here on nobody brings it to 0. If somebody has, the request is in the inbox, or on its way into
                 * it by the hand of another thread. */
                crossed = atomic_fetch_add(&request->outstanding, OWNED + request->parked_at) <= 0;
        for (unsigned i = 0; i < request->window; i++) {
                struct wait *wait = &request->waits[i];

                if (!__atomic_load_n(&wait->active, __ATOMIC_ACQUIRE) || !slice_forget(wait))
                        continue;
                __atomic_store_n(&wait->active, false, __ATOMIC_RELEASE);
                (void) atomic_fetch_sub(&request->outstanding, 1);
        }
        if (crossed) {
                (void) atomic_fetch_sub(&request->outstanding, OWNED + request->parked_at);
                return false;
        }
        request->parked = false;
        return request_park(request) == REQUEST_DECIDED;
}
