/* SPDX-License-Identifier: MIT */
/*
 * libnbd resolves a server's name where it connects, and waits for the answer: with a name server that is silent, for as long
 * as resolv.conf says. The loop must not: other connections have answers to be taken. So a thread connects, one for all of
 * them, since they have the same name. It has a handle from connector_push() until connector_is_done(); the loop does not touch
 * that handle meanwhile, which is locked.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/macro.h"
#include "sources/nbd/nbd.h"

static void connect_one(struct worker *worker, struct connection *connection) {
        int r = nbd_aio_connect_uri(connection->nbd, worker->options->uri);

        /* The text is this thread's. */
        (void) snprintf(connection->connect_error, sizeof connection->connect_error, "%s",
                        r < 0 ? nbd_get_error() ?: "cannot connect" : "");
        atomic_store(&connection->connecting, CONNECTING_DONE);
        (void) !write(worker->connector_wake, &(uint64_t) { 1 }, sizeof(uint64_t));
}

static void *connector_thread(void *data) {
        struct worker *worker = data;

        (void) sem_post(&worker->connector_started);
        for (;;) {
                while (sem_wait(&worker->connector_wanted) < 0)
                        ;
                for (unsigned i = 0; i < ELEMENTS(worker->connections); i++)
                        if (atomic_load(&worker->connections[i].connecting) == CONNECTING_WANTED)
                                connect_one(worker, &worker->connections[i]);
        }
        return NULL;
}

int connector_start(struct worker *worker) {
        sigset_t all, saved;
        pthread_t thread;
        int r;

        (void) sem_init(&worker->connector_started, 0, 0);
        (void) sem_init(&worker->connector_wanted, 0, 0);
        worker->connector_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (worker->connector_wake < 0)
                return -errno;
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        r = -pthread_create(&thread, NULL, connector_thread, worker);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        /* What a thread asks of the kernel when it begins, the filter does not allow. */
        while (r == 0 && sem_wait(&worker->connector_started) < 0)
                ;
        return r;
}

void connector_push(struct connection *connection) {
        atomic_store(&connection->connecting, CONNECTING_WANTED);
        (void) sem_post(&connection->worker->connector_wanted);
}

bool connector_is_done(struct connection *connection) {
        return atomic_load(&connection->connecting) == CONNECTING_DONE;
}

void connector_hear(struct worker *worker) {
        (void) !read(worker->connector_wake, &(uint64_t) { 0 }, sizeof(uint64_t));
}
