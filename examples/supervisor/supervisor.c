/* SPDX-License-Identifier: MIT */
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "child.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"
#include "notify.h"
#include "store.h"

/* After so many in a row that were never ready the next one waits: what is wrong then does not go away within a
 * millisecond, and the VM stands still in any case. One that was ready has served somebody: the next one starts at once. */
#define FAILED_MAX 5u
#define PAUSE_MIN_US (100 * USEC_PER_MSEC)
#define PAUSE_MAX_US (10 * USEC_PER_SEC)

/* Of pagebrokerd. */
#define EXIT_BAD_USAGE 2 /* its command line is wrong, and will be */
#define EXIT_LOST 3      /* the VM cannot go on (--on-error=stop) */

#define EXIT_NO_PROGRAM 127

struct supervisor {
        const struct supervisor_options *options;
        struct store store;
        sd_event *event;
        sd_event_source *restart, *watchdog;
        sd_event_source *broker_end; /* freed when it has ended: its pid will be another process's, also of a later broker */
        int notify;
        char notify_address[128];
        pid_t broker, vmm;
        unsigned n_starts, n_failed;
        bool ready, ever_ready, stopping;
        int status; /* the exit status of the whole, from when it stops */
};

/* Our own supervisor, if we have one, hears which broker is alive. */
static void tell(const struct supervisor *s, const char *state) {
        (void) sd_notifyf(0, "%s\nSTATUS=broker %d, start %u", state, (int) s->broker, s->n_starts);
}

/* Whatever ended first says how the whole ended; who is asked to end for that reason does not. */
static void stop(struct supervisor *s, int status) {
        if (!s->stopping)
                s->status = status;
        s->stopping = true;
        s->restart = sd_event_source_disable_unref(s->restart);
        s->watchdog = sd_event_source_disable_unref(s->watchdog);
        if (s->broker > 0)
                (void) kill(s->broker, SIGTERM);
        if (s->vmm > 0)
                (void) kill(s->vmm, SIGTERM);
        if (s->broker <= 0 && s->vmm <= 0)
                (void) sd_event_exit(s->event, s->status);
}

/* ---- the VMM ---- */

static int on_vmm_end(sd_event_source *source, const siginfo_t *info, void *data) {
        struct supervisor *s = data;
        int status = info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;

        log_info("the VMM has ended with status %d", status);
        s->vmm = 0;
        stop(s, status);
        return 0;
}

static int start_vmm(struct supervisor *s) {
        char *argv[] = { (char *) "sh", (char *) "-c", s->options->vmm, NULL };
        struct child_options options = { .argv = argv, .death_signal = s->options->die_together ? SIGKILL : 0 };

        s->vmm = child_start(&options);
        if (s->vmm < 0)
                return (int) s->vmm;
        return sd_event_add_child(s->event, NULL, s->vmm, WEXITED, on_vmm_end, s);
}

/* ---- the broker ---- */

static int start_broker(struct supervisor *s);

static int on_restart_time(sd_event_source *source, uint64_t usec, void *data) {
        return start_broker(data);
}

static void restart(struct supervisor *s) {
        uint64_t pause_us = 0;

        if (s->n_failed > FAILED_MAX)
                pause_us = min_u64(PAUSE_MIN_US << min_u64(s->n_failed - FAILED_MAX - 1, 10), PAUSE_MAX_US);
        if (pause_us == 0) {
                if (start_broker(s) < 0)
                        stop(s, EXIT_FAILURE);
                return;
        }
        log_warning("%u brokers in a row were never ready; the next one is started in %llu ms", s->n_failed,
                    (unsigned long long) (pause_us / USEC_PER_MSEC));
        s->restart = sd_event_source_disable_unref(s->restart);
        if (sd_event_add_time_relative(s->event, &s->restart, CLOCK_MONOTONIC, pause_us, 0, on_restart_time, s) < 0)
                stop(s, EXIT_FAILURE);
}

/* What was never ready has no VM that waits for it, and will not be ready next time. */
static bool gives_up(const struct supervisor *s, const siginfo_t *info) {
        if (info->si_code != CLD_EXITED)
                return false;
        return info->si_status == EXIT_LOST ||
               (!s->ever_ready && (info->si_status == EXIT_FAILURE || info->si_status == EXIT_BAD_USAGE ||
                                   info->si_status == EXIT_NO_PROGRAM));
}

static int on_broker_end(sd_event_source *source, const siginfo_t *info, void *data) {
        struct supervisor *s = data;
        bool exited = info->si_code == CLD_EXITED;

        s->broker = 0;
        s->broker_end = sd_event_source_disable_unref(s->broker_end);
        s->n_failed = s->ready ? 0 : s->n_failed + 1;
        s->ready = false;
        s->watchdog = sd_event_source_disable_unref(s->watchdog);
        if (s->stopping) {
                if (s->status == EXIT_SUCCESS)
                        s->status = exited ? info->si_status : EXIT_FAILURE;
                if (s->vmm <= 0)
                        (void) sd_event_exit(s->event, s->status);
                return 0;
        }
        log_warning("the broker has ended (%s %d), %u descriptors are kept",
                    exited ? "status" : "signal", info->si_status, s->store.n_entries);
        if (gives_up(s, info))
                stop(s, info->si_status);
        else
                restart(s);
        return 0;
}

static int on_watchdog(sd_event_source *source, uint64_t usec, void *data) {
        struct supervisor *s = data;

        log_error("the broker has not said WATCHDOG=1 for %llu ms; killed",
                  (unsigned long long) (s->options->watchdog_us / USEC_PER_MSEC));
        /* Not SIGABRT: a core dump would take time in which the VM stands still. */
        if (s->broker > 0)
                (void) kill(s->broker, SIGKILL);
        return 0;
}

static void feed_watchdog(struct supervisor *s) {
        if (s->options->watchdog_us == 0)
                return;
        s->watchdog = sd_event_source_disable_unref(s->watchdog);
        (void) sd_event_add_time_relative(s->event, &s->watchdog, CLOCK_MONOTONIC, s->options->watchdog_us, 0,
                                          on_watchdog, s);
}

static int start_broker(struct supervisor *s) {
        struct child_options options = {
                .argv = s->options->broker,
                .notify = s->notify_address,
                .watchdog_us = s->options->watchdog_us,
                .store = &s->store,
                .death_signal = s->options->die_together ? SIGKILL : 0,
        };
        int r;

        s->n_starts++;
        s->broker = child_start(&options);
        if (s->broker < 0) {
                log_error("cannot start %s: %s", options.argv[0], strerror((int) -s->broker));
                return (int) s->broker;
        }
        log_info("broker %d started, with %u descriptors", (int) s->broker, s->store.n_entries);
        r = sd_event_add_child(s->event, &s->broker_end, s->broker, WEXITED, on_broker_end, s);
        return r < 0 ? r : 0;
}

/* ---- what it says ---- */

static void keep(struct supervisor *s, struct notify_message *message) {
        for (unsigned i = 0; i < message->n_fds; i++)
                if (store_add(&s->store, message->name[0] ? message->name : "stored", fd_take(&message->fds[i])) < 0)
                        log_error("no place for descriptor '%s': %u are kept (--store)", message->name,
                                  s->store.n_entries);
        message->n_fds = 0;
}

static void on_ready(struct supervisor *s) {
        s->ready = true;
        log_info("broker %d is ready", (int) s->broker);
        tell(s, "READY=1");
        if (!s->ever_ready && s->options->vmm && start_vmm(s) < 0)
                stop(s, EXIT_FAILURE);
        s->ever_ready = true;
        feed_watchdog(s);
}

/* One message a turn, before all else: what a broker said before it died has been heard when its end is looked at. */
static int on_message(sd_event_source *source, int fd, uint32_t events, void *data) {
        struct supervisor *s = data;
        struct notify_message message;
        int r = notify_receive(fd, &message);

        if (r < 0)
                return 0;
        /* Of the broker alone: what is kept is the VM's memory. */
        if (message.sender != s->broker) {
                notify_message_done(&message);
                return 0;
        }
        if (message.store)
                keep(s, &message);
        if (message.forget)
                store_remove(&s->store, message.name);
        if (message.ready)
                on_ready(s);
        if (message.watchdog && s->ready)
                feed_watchdog(s);
        notify_message_done(&message); /* which answers BARRIER=1 */
        return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *data) {
        log_info("got %s, stopping", strsignal((int) info->ssi_signo));
        stop(data, EXIT_SUCCESS);
        return 0;
}

/* ---- life ---- */

static int set_up(struct supervisor *s) {
        sd_event_source *messages = NULL;
        sigset_t signals;
        int r = store_init(&s->store, s->options->store);

        if (r < 0)
                return r;
        s->notify = notify_listen(s->notify_address, sizeof s->notify_address);
        if (s->notify < 0)
                return s->notify;
        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGINT);
        (void) sigaddset(&signals, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &signals, NULL);
        r = sd_event_new(&s->event);
        if (r >= 0)
                r = sd_event_add_signal(s->event, NULL, SIGTERM, on_signal, s);
        if (r >= 0)
                r = sd_event_add_signal(s->event, NULL, SIGINT, on_signal, s);
        if (r >= 0)
                r = sd_event_add_io(s->event, &messages, s->notify, EPOLLIN, on_message, s);
        if (r >= 0)
                r = sd_event_source_set_priority(messages, SD_EVENT_PRIORITY_IMPORTANT);
        if (r >= 0)
                (void) sd_event_source_set_floating(messages, 1);
        (void) sd_event_source_unref(messages);
        return r < 0 ? r : start_broker(s);
}

int supervisor_run(const struct supervisor_options *options) {
        struct supervisor s = { .options = options, .notify = -1 };
        int r = set_up(&s);

        if (r < 0)
                log_error("cannot start: %s", strerror(-r));
        else
                r = sd_event_loop(s.event);
        s.broker_end = sd_event_source_unref(s.broker_end);
        s.restart = sd_event_source_unref(s.restart);
        s.watchdog = sd_event_source_unref(s.watchdog);
        s.event = sd_event_unref(s.event);
        store_done(&s.store);
        (void) fd_close(s.notify);
        return r < 0 ? EXIT_FAILURE : r;
}
