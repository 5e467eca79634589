/* SPDX-License-Identifier: MIT */
#include "broker/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/bus/bus.h"
#include "broker/checksums.h"
#include "broker/collapse.h"
#include "broker/connection.h"
#include "broker/events.h"
#include "broker/headroom.h"
#include "broker/hotplug.h"
#include "broker/isolate.h"
#include "broker/lock.h"
#include "broker/news.h"
#include "broker/ledger.h"
#include "broker/notify.h"
#include "broker/open-source.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "broker/restart.h"
#include "broker/session.h"
#include "broker/source.h"
#include "broker/watchdog.h"
#include "broker/working-set.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker accept4 epoll_wait epoll_ctl timerfd_settime read write close ~clock_nanosleep getsockopt sendto
 * setsockopt signalfd4
 *
 * signalfd4: sd-event, when a signal source goes. */

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif

bool broker_has_pidfds(void) {
        static int known = -1;

        if (known < 0) {
                int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

                known = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &(int) { 1 }, sizeof(int)) == 0;
                (void) fd_close(fd);
        }
        return known;
}

static bool may_log(struct log_limit *limit, const char *whom) {
        uint32_t suppressed;
        bool pass = log_limit_pass(limit, &suppressed);

        if (pass && suppressed)
                log_warning("%u lines about %s were left out", suppressed, whom);
        return pass;
}

bool broker_may_log_client(void) {
        static struct log_limit limit = { .interval_us = USEC_PER_SEC, .burst = 50 };

        return may_log(&limit, "clients");
}

bool broker_may_log_stranger(void) {
        static struct log_limit limit = { .interval_us = USEC_PER_SEC, .burst = 20 };

        return may_log(&limit, "clients that were not let in");
}

/* ---- opening: privileges are still there ---- */

int broker_open(struct broker *broker, const struct options *options) {
        int r;

        *broker = (struct broker) { .options = options, .uid = geteuid(), .uffd_device = -1, .record_fd = -1, .replay_fd = -1,
                                    .eventfd = -1, .spare_fd = -1, .own_listener = -1 };
        (void) pthread_mutex_init(&broker->lock, NULL);
        broker->notify = notify_open();
        r = store_open(&broker->store, broker->notify);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < options->n_memories; i++) {
                struct memory_plan *plan = &broker->plans[i];

                plan->backing_size = options->memories[i].backing_size ?: options->backing_size;
                r = restart_take_source(broker, i);
                if (r == 0) {
                        r = open_source(options, i, &plan->size, &plan->source);
                        if (r == 0)
                                r = open_checksums(options, i, plan->source, &plan->checksums);
                }
                broker->n_memories = i + 1;
                if (r < 0)
                        return r;
        }
        r = broker_make_regions(broker);
        if (r < 0)
                return r;
        r = working_set_open(broker);
        if (r == 0)
                r = broker_listen(broker);
        if (r < 0)
                return r;
        broker->uffd_device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (broker->uffd_device < 0)
                log_notice("/dev/userfaultfd: %s; a VMM needs a right of its own to make a userfaultfd that covers kernel "
                           "accesses",
                           strerror(errno));
        isolate_raise_descriptors(options->client_limit);
        lock_raise_limit();
        headroom_open(options->memory_headroom);
        (void) broker_has_pidfds(); /* finds out now: the filter will not let it */
        return 0;
}

/* ---- making: privileges are gone ---- */

static void *count_thread(void *arg) {
        struct broker *broker = arg;

        for (unsigned i = 0; i < broker->n_memories; i++) {
                memory_count_data(broker->memories[i]);
                atomic_store_explicit(&broker->memories[i]->counter_is_through, true, memory_order_release);
                pager_poke(broker->pager); /* its source may end now */
        }
        return NULL;
}

static int make_memory(struct broker *broker, unsigned i) {
        const struct memory_options options = {
                .vm = broker->options->name,
                .name = broker->options->memories[i].name,
                .size = broker->plans[i].size,
                .backing_size = broker->plans[i].backing_size,
                .epoch = broker->epoch,
                .numa = &broker->options->memories[i].numa,
                .adopt = broker->resumed,
                .guest_fd = broker->resumed ? restart_take_memory(broker, i) : -1,
        };
        _cleanup_free_ char *error = NULL;
        int r;

        if (broker->resumed && options.guest_fd < 0) {
                log_error("memory %s is not in the supervisor's store", options.name);
                return -ENOENT;
        }
        r = memory_new(&broker->memories[i], &options, &error);
        for (unsigned n = 0; n < broker->n_regions && r == 0; n++)
                if (broker->regions[n].memory == i && broker->regions[n].numa)
                        r = memory_place(broker->memories[i], broker->regions[n].offset, broker->regions[n].size,
                                         broker->regions[n].numa, &error);
        if (r < 0) {
                log_error("%s", error ?: strerror(-r));
                return r;
        }
        broker->memories[i]->source = PTR_TAKE(broker->plans[i].source);
        broker->memories[i]->checksums = PTR_TAKE(broker->plans[i].checksums);
        broker->memories[i]->source_offset = broker->options->memories[i].source_offset;
        log_event(LOG_INFO, (.memory = options.name), "memory %s: %" PRIu64 " KiB in pages of %" PRIu64 " KiB, from %s",
                  options.name, options.size >> 10, options.backing_size >> 10, broker->memories[i]->source->name);
        r = pager_add_memory(broker->pager, broker->memories[i]);
        return r == 0 && broker->resumed ? restart_take_bits(broker, i) : r;
}

int broker_make(struct broker *broker) {
        const struct pager_events events = news_of_pager(broker);
        sigset_t all, saved;
        struct pager_options pager_options = broker->options->pager;
        int r;

        /* FUSE serves 12 asynchronous reads of a file system at once, and so many silent ones would stop io_uring's reads
         * of all its files; reads of worker threads do not count there. */
        for (unsigned i = 0; i < broker->n_memories; i++)
                if (pager_options.reader == READER_AUTO && broker->plans[i].source->may_block)
                        pager_options.reader = READER_THREADS;
        broker->own_uid = geteuid();
        r = restart_begin(broker);
        if (r < 0)
                return r;
        broker_begin_fill(broker, &pager_options);
        broker->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        broker->spare_fd = broker->eventfd < 0 ? -1 : fcntl(broker->eventfd, F_DUPFD_CLOEXEC, 3);
        if (broker->spare_fd < 0)
                return -errno;
        r = bus_new(broker);
        if (r < 0)
                return r;
        r = pager_new(&broker->pager, &pager_options, &events);
        if (r < 0) {
                log_error("cannot start the pager: %s%s", strerror(-r),
                          broker->options->pager.reader == READER_URING ? "; --io=threads works without io_uring" : "");
                return r;
        }
        for (unsigned i = 0; i < broker->n_memories; i++) {
                r = make_memory(broker, i);
                if (r < 0)
                        return r;
        }
        r = restart_commit(broker);
        if (r < 0)
                return r;
        hotplug_begin(broker);
        if (broker->resumed)
                pager_memory_filled(broker->pager); /* if so, everybody is to be told */
        r = working_set_begin(broker);
        if (r < 0)
                return r;
        /* It may still count when SIGTERM comes, which is for the control thread. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        r = -pthread_create(&broker->counter, NULL, count_thread, broker);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (r == 0) {
                broker->counting = true;
                r = pager_start(broker->pager);
        }
        if (r < 0) {
                log_error("cannot start a thread: %s", strerror(-r));
                return r;
        }
        lock_own_memory(broker);
        log_info("cold reads by %s", reader_name(broker->pager->reader));
        return 0;
}

/* ---- serving ---- */

static int on_sweep(sd_event_source *source, void *data) {
        struct broker *broker = data;
        struct connection *connection, *next;

        DL_FOREACH_SAFE (broker->connections, connection, next)
                if (connection->fd < 0 && !connection->exit)
                        (void) connection_free(connection);
        return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *data) {
        struct broker_counters counters;

        broker_count(data, &counters);
        log_event(LOG_INFO, (.id = EVENT_STOPPED),
                  "got %s, stopping; %" PRIu64 " of %" PRIu64 " pages are present, %" PRIu64 " poisoned; clients: %u",
                  strsignal((int) si->ssi_signo), counters.pages_present, counters.pages_total, counters.pages_poisoned,
                  counters.clients);
        return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int on_nothing(sd_event_source *source, uint64_t usec, void *data) {
        return 0;
}

static int add_listener(struct broker *broker, int *listener) {
        int listening = 0, fd = *listener;

        /* On the listening socket, whose accepted sockets inherit it: a HELLO that is sent before we accept must carry
         * its sender's credentials too. */
        (void) setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int) { 1 }, sizeof(int));
        if (broker_has_pidfds())
                (void) setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &(int) { 1 }, sizeof(int));

        (void) getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &(socklen_t) { sizeof listening });
        /* A connected socket is one client's, passed by the supervisor. */
        if (!listening)
                return connection_new(broker, fd_take(listener));
        return broker_accept(broker, fd);
}

static int broker_set_up(struct broker *broker) {
        sigset_t signals;
        int r = sd_event_new(&broker->event);

        if (r < 0)
                return r;
        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGINT);
        (void) sigprocmask(SIG_BLOCK, &signals, NULL);
        (void) signal(SIGPIPE, SIG_IGN);
        r = sd_event_add_signal(broker->event, NULL, SIGTERM, on_signal, broker);
        if (r >= 0)
                r = sd_event_add_signal(broker->event, NULL, SIGINT, on_signal, broker);
        if (r >= 0)
                r = sd_event_add_io(broker->event, NULL, broker->eventfd, EPOLLIN, news_take, broker);
        if (r >= 0)
                r = sd_event_add_defer(broker->event, &broker->sweep, on_sweep, broker);
        /* The first timer makes sd-event create its timerfd, the first turn with one makes it read the boot id: both now,
         * because the filter allows neither. */
        if (r >= 0)
                r = sd_event_add_time_relative(broker->event, NULL, CLOCK_MONOTONIC, 0, 0, on_nothing, NULL);
        if (r >= 0)
                r = sd_event_run(broker->event, 0);
        return r;
}

static int broker_let_in(struct broker *broker) {
        int r = broker_start_healing(broker);

        if (r >= 0)
                r = hotplug_resume(broker);
        if (r >= 0)
                r = restart_take_peers(broker);
        if (r >= 0)
                hotplug_check(broker); /* one that was leaving may be held by nobody by now */
        for (unsigned i = 0; i < broker->n_listeners && r >= 0; i++)
                r = add_listener(broker, &broker->listeners[i]);
        return r;
}

/* For an image in few pieces this takes no time, and its counters are then right from the first question on. */
#define COUNT_PATIENCE_MS 200

static void wait_for_count(struct broker *broker) {
        struct timespec until;

        (void) clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += COUNT_PATIENCE_MS * 1000000l;
        if (until.tv_nsec >= 1000000000l) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000l;
        }
        if (broker->counting && pthread_timedjoin_np(broker->counter, NULL, &until) == 0)
                broker->counting = false;
}

static void log_ready(struct broker *broker) {
        const char *path = broker->options->socket;
        struct broker_counters counters;

        broker_count(broker, &counters);
        log_event(LOG_INFO, (.id = EVENT_READY),
                  "ready%s%s; memories: %u, regions: %u; %" PRIu64 " of %" PRIu64
                  " pages are present; background fill %s",
                  path ? " at " : "", path ?: "", broker->n_memories, broker->n_regions, counters.pages_present,
                  counters.pages_total, counters.fill ? "on" : "off");
}

int broker_run(struct broker *broker) {
        int r = broker_set_up(broker), said = 0;

        if (r >= 0)
                r = said = bus_start(broker);
        if (r >= 0)
                r = broker_let_in(broker);
        if (r < 0) {
                if (said >= 0)
                        log_error("cannot set up the event loop: %s", strerror(-r));
                return r;
        }
        /* After a restart somebody waits, and the counters can do without. */
        if (!broker->resumed)
                wait_for_count(broker);
        if (broker->options->seccomp)
                r = isolate_seal();
        else
                log_warning("running without a system-call filter (--seccomp=off)");
        if (r < 0)
                return r;
        broker->ready = true;
        notify_send(broker->notify, "READY=1");
        r = watchdog_start(&broker->watchdog, broker->event, broker->pager, broker->notify);
        if (r < 0)
                log_warning("the watchdog will not be fed: %s", strerror(-r));
        broker->ready_us = clock_now_us();
        log_ready(broker);
        return sd_event_loop(broker->event);
}

/* Peers' threads that hang in a lock of their peer use the memories, and so does a punch that hangs in the inode's:
 * then everything is left to the kernel. */
static bool wait_for_peers(void) {
        for (unsigned tries = 0; peers_running() > 0; tries++) {
                if (tries == 1000)
                        return false;
                (void) usleep(1000);
        }
        return true;
}

void broker_done(struct broker *broker) {
        struct connection *connection, *next;
        struct closed_session *closed, *next_closed;
        bool all_gone;

        broker->stopping = true; /* whoever comes next serves the peers again: the store keeps them */
        for (unsigned i = 0; i < broker->n_memories; i++)
                if (broker->memories[i])
                        atomic_store(&broker->memories[i]->closing, true);
        if (broker->counting)
                (void) pthread_join(broker->counter, NULL);
        collapse_stop(broker);
        bus_stop(broker);
        hotplug_end(broker);
        DL_FOREACH_SAFE (broker->connections, connection, next)
                (void) connection_free(connection);
        all_gone = wait_for_peers();
        if (broker->pager)
                pager_stop(broker->pager);
        working_set_end(broker);
        for (closed = broker->closed; closed; closed = next_closed) {
                next_closed = closed->next;
                (void) session_free(closed->session);
                free(closed);
        }
        if (all_gone && pager_can_be_freed(broker->pager)) {
                broker->pager = pager_free(broker->pager);
                bus_free(broker);
                tally_free_all(&broker->tallies);
                broker->ledger = ledger_free(broker->ledger);
                for (unsigned i = 0; i < broker->n_memories; i++) {
                        broker->memories[i] = memory_free(broker->memories[i]);
                        broker->plans[i].source = source_free(broker->plans[i].source);
                        broker->plans[i].checksums = checksums_free(broker->plans[i].checksums);
                }
        }
        watchdog_stop(&broker->watchdog);
        broker->sweep = sd_event_source_unref(broker->sweep);
        broker->accept_again = sd_event_source_disable_unref(broker->accept_again);
        for (unsigned i = 0; i < broker->n_accepting; i++)
                broker->accepting[i] = sd_event_source_disable_unref(broker->accepting[i]);
        headroom_close();
        broker->event = sd_event_unref(broker->event);
        for (unsigned i = 0; i < broker->n_listeners; i++)
                (void) fd_close(broker->listeners[i]);
        (void) fd_close(broker->uffd_device);
        (void) fd_close(broker->eventfd);
        (void) fd_close(broker->spare_fd);
        (void) fd_close(broker->notify);
        store_done(&broker->store);
        /* The socket's file stays: removing it would need a right to remove files under the filter, and the next broker
         * knows a file that nobody listens on. */
}
