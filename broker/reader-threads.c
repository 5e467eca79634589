/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/fetch.h"
#include "broker/reader-engine.h"
#include "common/cleanup.h"
#include "common/macro.h"

/* #syscalls:broker pread64 read write */

/* Half of them may hang in reads that have been given up: with fewer, a handful of silent reads with their retries
 * would take all, and reads that would be answered would wait for a worker until they are late. */
#define WORKERS 64u

struct job {
        struct job *prev, *next;
        struct fetch *fetch;
};

struct pool {
        pthread_mutex_t lock;
        pthread_cond_t work;
        struct job *todo, *done;
        atomic_uint n_done; /* for a look without the lock */
        int eventfd;
        bool closing;
        unsigned n_workers;
        pthread_t workers[WORKERS];
};

static void *worker(void *arg) {
        struct pool *pool = arg;

        (void) pthread_mutex_lock(&pool->lock);
        for (;;) {
                struct source_read *read;
                struct job *job;
                ssize_t n;

                while (!pool->todo && !pool->closing)
                        (void) pthread_cond_wait(&pool->work, &pool->lock);
                if (pool->closing)
                        break;
                job = pool->todo;
                DL_DELETE(pool->todo, job);
                (void) pthread_mutex_unlock(&pool->lock);
                read = &job->fetch->read;
                do
                        n = pread(read->fd, read->buffer, read->length, (off_t) read->offset);
                while (n < 0 && errno == EINTR);
                read->result = n < 0 ? -errno : (int) n;
                (void) pthread_mutex_lock(&pool->lock);
                DL_APPEND(pool->done, job);
                (void) atomic_fetch_add(&pool->n_done, 1);
                (void) !write(pool->eventfd, &(uint64_t) { 1 }, sizeof(uint64_t));
        }
        (void) pthread_mutex_unlock(&pool->lock);
        return NULL;
}

static void pool_close(void *state) {
        struct pool *pool = state;
        struct job *job, *next;
        struct timespec soon;
        bool busy = false;

        (void) pthread_mutex_lock(&pool->lock);
        pool->closing = true;
        (void) pthread_cond_broadcast(&pool->work);
        (void) pthread_mutex_unlock(&pool->lock);
        /* A worker may hang in a read that never answers; the process is about to end, so nobody waits for it, and
         * its memory stays. */
        (void) clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_sec += 1;
        for (unsigned i = 0; i < pool->n_workers; i++) {
                if (pthread_timedjoin_np(pool->workers[i], NULL, &soon) != 0)
                        busy = true;
        }
        if (busy)
                return;
        DL_CONCAT(pool->todo, pool->done);
        DL_FOREACH_SAFE (pool->todo, job, next)
                free(job);
        pool->eventfd = fd_close(pool->eventfd);
        free(pool);
}

static int pool_open(void **ret_state, unsigned n_reads) {
        struct pool *pool = calloc(1, sizeof *pool);
        sigset_t all, saved;

        if (!pool)
                return -ENOMEM;
        (void) pthread_mutex_init(&pool->lock, NULL);
        (void) pthread_cond_init(&pool->work, NULL);
        pool->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (pool->eventfd < 0) {
                free(pool);
                return -errno;
        }
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        for (; pool->n_workers < WORKERS; pool->n_workers++) {
                int r = pthread_create(&pool->workers[pool->n_workers], NULL, worker, pool);

                if (r != 0) {
                        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
                        pool_close(pool);
                        return -r;
                }
        }
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        *ret_state = pool;
        return 0;
}

static int pool_get_fd(void *state) {
        return ((struct pool *) state)->eventfd;
}

static int pool_submit(void *state, struct fetch *fetch) {
        struct pool *pool = state;
        struct job *job = malloc(sizeof *job);

        if (!job)
                return -ENOMEM;
        *job = (struct job) { .fetch = fetch };
        (void) pthread_mutex_lock(&pool->lock);
        DL_APPEND(pool->todo, job);
        (void) pthread_cond_signal(&pool->work);
        (void) pthread_mutex_unlock(&pool->lock);
        return 0;
}

static void pool_flush(void *state) {
}

static bool pool_has_answers(void *state) {
        return atomic_load_explicit(&((struct pool *) state)->n_done, memory_order_relaxed) > 0;
}

static struct fetch *pool_reap(void *state) {
        struct pool *pool = state;
        struct fetch *fetch = NULL;
        struct job *job;

        (void) pthread_mutex_lock(&pool->lock);
        job = pool->done;
        if (job) {
                DL_DELETE(pool->done, job);
                (void) atomic_fetch_sub(&pool->n_done, 1);
        } else /* drained under the lock: a later worker's write comes after */
                (void) !read(pool->eventfd, &(uint64_t) { 0 }, sizeof(uint64_t));
        (void) pthread_mutex_unlock(&pool->lock);
        if (job)
                fetch = job->fetch;
        free(job);
        return fetch;
}

const struct reader_engine reader_threads = {
        .name = "threads",
        .max_depth = WORKERS / 2,
        .open = pool_open,
        .close = pool_close,
        .get_fd = pool_get_fd,
        .submit = pool_submit,
        .flush = pool_flush,
        .has_answers = pool_has_answers,
        .reap = pool_reap,
};
