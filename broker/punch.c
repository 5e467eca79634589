/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <utlist.h>

#include "broker/install.h"
#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/session.h"
#include "common/clock.h"
#include "common/macro.h"

/* #syscalls:broker fallocate */

#define PUNCHES_MAX 1024u

struct punch_worker {
        pthread_mutex_t lock;
        pthread_cond_t work;
        struct punch *todo;
        unsigned n_todo;
        bool closing;
        pthread_t thread;
        struct driver *driver;
};

/* Huge pages are zeroed and kept: a hole under a present bit would be SIGBUS in a linked client once the pool is empty
 * (punching gives the reservation back). */
static int punch_range(const struct page_range *range) {
        struct memory *memory = range->memory;

        if (memory->backing_size > PB_PAGE_BYTES) {
                for (uint64_t page = range->first, end = range->first + range->count; page < end;) {
                        uint64_t n = min_u64(SLICE_PAGES, end - page);
                        int r = install_zero(memory, page, n);

                        if (r < 0)
                                return r;
                        page += n;
                }
                return 0;
        }
        while (fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         (off_t) (range->first * PB_PAGE_BYTES), (off_t) (range->count * PB_PAGE_BYTES)) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static void *punch_thread(void *arg) {
        struct punch_worker *worker = arg;

        (void) pthread_mutex_lock(&worker->lock);
        while (!worker->closing) {
                struct punch *punch;
                int r = 0;

                if (!worker->todo) {
                        (void) pthread_cond_wait(&worker->work, &worker->lock);
                        continue;
                }
                punch = worker->todo;
                LL_DELETE2(worker->todo, punch, todo_next);
                worker->n_todo--;
                (void) pthread_mutex_unlock(&worker->lock);
                KILL_POINT("punch");
                for (unsigned i = 0; i < punch->n_ranges && r == 0; i++)
                        r = punch_range(&punch->ranges[i]);
                KILL_POINT("punched");
                punch->result = r;
                __atomic_store_n(&punch->done, true, __ATOMIC_RELEASE);
                driver_signal(worker->driver);
                (void) pthread_mutex_lock(&worker->lock);
        }
        (void) pthread_mutex_unlock(&worker->lock);
        return NULL;
}

int punch_worker_new(struct punch_worker **ret, struct driver *driver) {
        struct punch_worker *worker = calloc(1, sizeof *worker);
        sigset_t all, saved;
        int r;

        if (!worker)
                return -ENOMEM;
        worker->driver = driver;
        (void) pthread_mutex_init(&worker->lock, NULL);
        (void) pthread_cond_init(&worker->work, NULL);
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        r = pthread_create(&worker->thread, NULL, punch_thread, worker);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (r != 0) {
                free(worker);
                return -r;
        }
        *ret = worker;
        return 0;
}

bool punch_worker_stop(struct punch_worker *worker) {
        struct timespec soon;

        (void) pthread_mutex_lock(&worker->lock);
        worker->closing = true;
        (void) pthread_cond_signal(&worker->work);
        (void) pthread_mutex_unlock(&worker->lock);
        (void) clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_sec += 1;
        if (pthread_timedjoin_np(worker->thread, NULL, &soon) != 0)
                return false;
        free(worker);
        return true;
}

void punch_worker_push(struct punch_worker *worker, struct punch *punch) {
        (void) pthread_mutex_lock(&worker->lock);
        if (worker->n_todo >= PUNCHES_MAX) { /* the worker hangs, and more came after their deadlines */
                (void) pthread_mutex_unlock(&worker->lock);
                punch->result = -ETIMEDOUT;
                __atomic_store_n(&punch->done, true, __ATOMIC_RELEASE);
                return;
        }
        worker->n_todo++;
        LL_APPEND2(worker->todo, punch, todo_next);
        (void) pthread_cond_signal(&worker->work);
        (void) pthread_mutex_unlock(&worker->lock);
}

void pager_punch(struct pager *pager, uint64_t session_id, uint32_t slot, uint32_t sequence,
                 const struct page_range *ranges, unsigned n_ranges) {
        struct punch *punch = calloc(1, sizeof *punch);
        struct session *session;

        if (!punch) {
                DL_FOREACH (pager->sessions, session)
                        if (session->id == session_id)
                                session_discard_done(session, slot, sequence, -ENOMEM);
                return;
        }
        *punch = (struct punch) {
                .session_id = session_id,
                .slot = slot,
                .sequence = sequence,
                .deadline_us = clock_now_us() + pager->options.discard_timeout_us,
                .n_ranges = n_ranges,
        };
        for (unsigned i = 0; i < n_ranges; i++)
                punch->ranges[i] = ranges[i];
        DL_APPEND(pager->punches, punch);
        punch_worker_push(pager->puncher, punch);
}

int pager_punch_memory(struct pager *pager, const struct page_range *range) {
        struct punch *punch = calloc(1, sizeof *punch);

        if (!punch)
                return -ENOMEM;
        *punch = (struct punch) {
                .cleared = range->memory,
                .deadline_us = clock_now_us() + pager->options.discard_timeout_us,
                .n_ranges = 1,
                .ranges = { *range },
        };
        DL_APPEND(pager->punches, punch);
        punch_worker_push(pager->puncher, punch);
        return 0;
}

static void punch_answer(struct pager *pager, const struct punch *punch, int result) {
        struct session *session;

        if (punch->cleared) {
                pager->events.memory_cleared(pager->events.data, punch->cleared, result);
                return;
        }

        DL_FOREACH (pager->sessions, session)
                if (session->id == punch->session_id)
                        session_discard_done(session, punch->slot, punch->sequence, result);
}

bool pager_check_punches(struct pager *pager, uint64_t now_us, uint64_t *next_us) {
        struct punch *punch, *next;
        bool any = false;

        DL_FOREACH_SAFE (pager->punches, punch, next) {
                if (__atomic_load_n(&punch->done, __ATOMIC_ACQUIRE)) {
                        if (!punch->answered)
                                punch_answer(pager, punch, punch->result);
                        DL_DELETE(pager->punches, punch);
                        free(punch);
                        any = true;
                } else if (!punch->answered && now_us >= punch->deadline_us) {
                        punch->answered = true;
                        punch_answer(pager, punch, -ETIMEDOUT);
                        any = true;
                } else if (!punch->answered)
                        *next_us = min_u64(*next_us, punch->deadline_us);
        }
        return any;
}
