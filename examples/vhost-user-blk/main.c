/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "device.h"
#include "options.h"

static void device_print_statistics(const struct device *device) {
        const struct blk *blk = &device->blk;

        log_info("requests=%llu reads=%llu writes=%llu flushes=%llu ids=%llu failed=%llu ensures=%llu waited=%llu",
                 (unsigned long long) (blk->n_reads + blk->n_writes + blk->n_flushes + blk->n_ids),
                 (unsigned long long) blk->n_reads, (unsigned long long) blk->n_writes,
                 (unsigned long long) blk->n_flushes, (unsigned long long) blk->n_ids,
                 (unsigned long long) blk->n_failed, (unsigned long long) device->guest.ensures,
                 (unsigned long long) device->guest.waited);
}

static int device_on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        if (info->ssi_signo != SIGUSR1)
                return sd_event_exit(sd_event_source_get_event(source), 0);
        device_print_statistics(userdata);
        return 0;
}

/* After every event: one system call for all disk requests that it caused, one interrupt for all answers. */
static int device_on_turn(sd_event_source *source UNUSED, void *userdata) {
        struct device *device = userdata;

        disk_submit(&device->disk);
        for (unsigned i = 0; i < QUEUES_MAX; i++)
                virtqueue_notify(&device->queues[i]);
        front_turn(&device->front);
        return 0;
}

static int device_open_loop(struct device *device) {
        static const int signals[] = { SIGTERM, SIGINT, SIGUSR1 };
        sigset_t set;
        int r;

        (void) sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTS(signals); i++)
                (void) sigaddset(&set, signals[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        r = sd_event_new(&device->event);
        for (size_t i = 0; r >= 0 && i < ELEMENTS(signals); i++)
                r = sd_event_add_signal(device->event, NULL, signals[i], device_on_signal, device);
        if (r >= 0)
                r = sd_event_add_post(device->event, NULL, device_on_turn, device);
        return r;
}

/* The broker's own words are in its log: there is no client yet that pb_explain() could ask. */
static const char *connect_advice(int error) {
        switch (error) {
        case -ENOENT:
        case -ECONNREFUSED:
                return ": no page broker listens there; is pagebrokerd running, with this path as its --socket?";
        case -EACCES:
                return ": the broker does not let this user in as a device (see --allow of pagebrokerd), or the socket's "
                       "directory does not let it through";
        case -EPROTO:
        case -EPROTONOSUPPORT:
                return ": what listens there is no page broker of a version that this one understands";
        default:
                return "";
        }
}

static int device_open(struct device *device, const struct options *options) {
        int r;

        r = device_open_loop(device);
        if (r < 0) {
                log_error("cannot set up the event loop: %s", strerror(-r));
                return r;
        }
        r = disk_open(&device->disk, device->event, options->file, options->readonly, options->uring);
        if (r < 0) {
                log_error("--file=%s: %s", options->file, strerror(-r));
                return r;
        }
        r = guest_open(&device->guest, device->event, options->pagebroker, options->reconnect_s);
        if (r < 0) {
                log_error("--pagebroker=%s: %s%s", options->pagebroker, strerror(-r), connect_advice(r));
                return r;
        }
        r = blk_init(&device->blk, device, options->serial);
        for (unsigned i = 0; r >= 0 && i < QUEUES_MAX; i++)
                r = virtqueue_init(&device->queues[i], device, i);
        if (r < 0) {
                log_error("cannot set up the queues: %s", strerror(-r));
                return r;
        }
        r = front_open(&device->front, device, options->socket);
        if (r < 0)
                log_error("--socket=%s: %s", options->socket,
                          r == -ENOTSOCK ? "exists and is not a socket" : strerror(-r));
        return r;
}

static void device_close(struct device *device) {
        /* First: it waits until the kernel is done with guest memory. A front-end that sees us hang up counts the
         * answers that it finds then, so they come before. */
        disk_close(&device->disk);
        front_close(&device->front);
        for (unsigned i = 0; i < QUEUES_MAX; i++)
                virtqueue_done(&device->queues[i]);
        dirty_log_clear(&device->dirty);
        guest_close(&device->guest);
        blk_done(&device->blk);
        device->event = sd_event_unref(device->event);
}

static int device_run(struct device *device) {
        int r;

        (void) sd_notify(false, "READY=1");
        r = sd_event_loop(device->event);
        (void) sd_notify(false, "STOPPING=1");
        device_print_statistics(device);
        return r;
}

int main(int argc, char **argv) {
        static struct device device = {
                .disk.fd = -1,
                .front = { .listener = -1, .socket = -1, .draining = -1 },
                .log_limit = { .interval_us = 1000000, .burst = 20 },
        };
        struct options options;
        int r;

        for (unsigned i = 0; i < QUEUES_MAX; i++)
                device.queues[i].kick = device.queues[i].call = device.queues[i].err = -1;
        r = options_parse(&options, argc, argv);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;
        log_open("vhost-user-blk", options.serial[0] ? options.serial : NULL);
        if (options.verbose)
                log_set_level(LOG_DEBUG);
        r = device_open(&device, &options);
        if (r >= 0)
                r = device_run(&device);
        device_close(&device);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
