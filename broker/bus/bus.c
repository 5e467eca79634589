/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "broker/bus/bus-internal.h"
#include "broker/pager.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"

/* What libsystemd calls once it is connected; the handshake with the bus goes on under the filter.
 * #syscalls:broker sendmsg recvmsg ppoll getsockopt geteuid ~getuid getpid timerfd_settime ~shutdown */

/* While so many answers wait to be taken no further calls are read: who floods us, or a daemon that does not read, fills
 * the daemon's queues, which are limited by user, and not our memory. */
#define QUEUED_MAX 64u

/* For questions to the bus about who calls a privileged method, which this thread waits for. */
#define ASK_TIMEOUT_US (2 * USEC_PER_SEC)

/* Behind the control sockets: who asks without end gets what time is left. */
#define BUS_PRIORITY (SD_EVENT_PRIORITY_NORMAL + 10)

uint64_t bus_realtime_us(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_REALTIME, &now);
        return (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / NSEC_PER_USEC;
}

uint64_t bus_time_of_day(uint64_t monotonic_ns) {
        return bus_realtime_us() - (clock_now_ns() - monotonic_ns) / NSEC_PER_USEC;
}

static bool has_room(const struct bus *bus) {
        uint64_t queued = 0;

        return sd_bus_get_n_queued_write(bus->bus, &queued) >= 0 && queued < QUEUED_MAX;
}

bool bus_is_up(const struct bus *bus) {
        return bus && bus->bus && sd_bus_is_ready(bus->bus) > 0 && has_room(bus);
}

/* ---- addresses and names ---- */

static bool is_default(const char *which) {
        return !which;
}

static int find_address(const char *which, char **ret) {
        const char *set, *dir;

        if (which && strcmp(which, "session") == 0) {
                set = getenv("DBUS_SESSION_BUS_ADDRESS");
                dir = getenv("XDG_RUNTIME_DIR");
                if (set)
                        *ret = strdup(set);
                else if (!dir || asprintf(ret, "unix:path=%s/bus", dir) < 0)
                        *ret = NULL;
        } else if (!which || strcmp(which, "system") == 0)
                *ret = strdup(getenv("DBUS_SYSTEM_BUS_ADDRESS") ?: "unix:path=/run/dbus/system_bus_socket");
        else
                *ret = strdup(which);
        return *ret ? 0 : -ENOENT;
}

static int make_name(const char *vm, char **ret) {
        _cleanup_free_ char *path = NULL;
        int r = sd_bus_path_encode("/x", vm, &path);

        if (r < 0)
                return r;
        return asprintf(ret, BUS_PREFIX ".%s", path + strlen("/x/")) < 0 ? -ENOMEM : 0;
}

/* ---- the connection ---- */

/* libsystemd would answer this itself, by opening /etc/machine-id: death under the filter, for everybody to order. */
static bool asks_for_machine(sd_bus_message *message) {
        return sd_bus_message_is_method_call(message, "org.freedesktop.DBus.Peer", "GetMachineId") > 0;
}

/* Sees every message before its handler does, and before libsystemd's own ones. */
static int on_any_message(sd_bus_message *message, void *data, sd_bus_error *error) {
        struct bus *bus = data;

        if (sd_bus_message_is_signal(message, "org.freedesktop.DBus.Local", "Disconnected") > 0) {
                log_warning("the bus has gone; clients are served as before, and a restart of the broker brings it back "
                            "to a bus");
                (void) sd_event_source_set_enabled(bus->tick, SD_EVENT_OFF);
                return 0;
        }
        if (asks_for_machine(message))
                return sd_bus_reply_method_errorf(message, SD_BUS_ERROR_NOT_SUPPORTED, "ask the bus");
        return 0;
}

static int on_name(sd_bus_message *message, void *data, sd_bus_error *error) {
        const sd_bus_error *failure = sd_bus_message_get_error(message);
        struct bus *bus = data;
        uint32_t result = 0;

        if (failure) {
                log_warning("bus name %s: %s; is the policy file installed, and does it name the broker's user?", bus->name,
                            failure->message ?: failure->name);
                return 0;
        }
        (void) sd_bus_message_read(message, "u", &result);
        if (result == 2) /* DBUS_REQUEST_NAME_REPLY_IN_QUEUE */
                log_warning("bus name %s is another process's; this broker gets it when that one ends", bus->name);
        else
                log_info("on the bus as %s", bus->name);
        return 0;
}

static int connect_to(struct bus *bus, const char *address) {
        int r = sd_bus_new(&bus->bus);

        if (r >= 0)
                r = sd_bus_set_address(bus->bus, address);
        if (r >= 0)
                r = sd_bus_set_bus_client(bus->bus, true);
        /* Nobody sends us descriptors: the last close() of some hangs (closer.h). */
        if (r >= 0)
                r = sd_bus_negotiate_fds(bus->bus, false);
        if (r >= 0)
                r = sd_bus_set_method_call_timeout(bus->bus, ASK_TIMEOUT_US);
        if (r >= 0)
                r = sd_bus_start(bus->bus);
        return r;
}

/* ---- the event loop ---- */

/* sd_bus_attach_event() would read whatever comes; else this does what it does. One message a turn, so that the control
 * sockets, whose priority is higher, have theirs in between. */
static void go_on(struct bus *bus) {
        /* Writes first, and reads nothing if it wrote something. With a full queue it is only called to write. */
        int r = sd_bus_process(bus->bus, NULL);

        if (r < 0 && sd_bus_is_open(bus->bus) > 0) {
                log_warning("the bus: %s", strerror(-r));
                sd_bus_close(bus->bus);
        }
        if (r < 0)
                (void) sd_event_source_set_enabled(bus->io, SD_EVENT_OFF);
}

static int on_bus_io(sd_event_source *source, int fd, uint32_t events, void *data) {
        go_on(data);
        return 0;
}

static int on_bus_time(sd_event_source *source, uint64_t usec, void *data) {
        struct bus *bus = data;

        if (has_room(bus))
                go_on(bus);
        return 0;
}

/* Before the loop sleeps. */
static int on_bus_prepare(sd_event_source *source, void *data) {
        struct bus *bus = data;
        uint64_t until_us = UINT64_MAX;
        int events = sd_bus_get_events(bus->bus);

        if (events < 0) /* closed */
                return sd_event_source_set_enabled(bus->time, SD_EVENT_OFF);
        if (!has_room(bus))
                events &= ~EPOLLIN;
        (void) sd_event_source_set_io_events(bus->io, (uint32_t) events);
        /* 0: a message has been read already. */
        if (sd_bus_get_timeout(bus->bus, &until_us) < 0 || until_us == UINT64_MAX)
                return sd_event_source_set_enabled(bus->time, SD_EVENT_OFF);
        (void) sd_event_source_set_time(bus->time, until_us);
        return sd_event_source_set_enabled(bus->time, SD_EVENT_ONESHOT);
}

static int watch(struct bus *bus) {
        sd_event *event = bus->broker->event;
        int r = sd_event_add_io(event, &bus->io, sd_bus_get_fd(bus->bus), EPOLLIN, on_bus_io, bus);

        if (r >= 0)
                r = sd_event_source_set_priority(bus->io, BUS_PRIORITY);
        if (r >= 0)
                r = sd_event_source_set_prepare(bus->io, on_bus_prepare);
        if (r >= 0)
                r = sd_event_add_time(event, &bus->time, CLOCK_MONOTONIC, 0, 1, on_bus_time, bus);
        if (r >= 0)
                r = sd_event_source_set_priority(bus->time, BUS_PRIORITY);
        return r;
}

static void disconnect(struct bus *bus) {
        bus->io = sd_event_source_disable_unref(bus->io);
        bus->time = sd_event_source_disable_unref(bus->time);
        if (!bus->bus)
                return;
        bus->bus = sd_bus_close_unref(bus->bus);
}

static int add_all(struct bus *bus) {
        int r = sd_bus_add_filter(bus->bus, NULL, on_any_message, bus);

        if (r >= 0)
                r = sd_bus_add_object_manager(bus->bus, NULL, BUS_ROOT);
        if (r >= 0)
                r = bus_add_vm(bus);
        if (r >= 0)
                r = bus_add_objects(bus);
        /* Queued if another has it: after a restart the bus may not have seen yet that the old one is gone. */
        if (r >= 0)
                r = sd_bus_request_name_async(bus->bus, NULL, bus->name, SD_BUS_NAME_QUEUE, on_name, bus);
        return r;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *data) {
        struct bus *bus = data;

        (void) sd_event_source_set_enabled(source, SD_EVENT_OFF);
        bus_sample(bus);
        bus_announce_late(bus);
        bus_tell_changes(bus);
        /* Done is free (invariant 12). */
        if (!pager_is_complete(bus->broker->pager) || bus->unannounced)
                bus_tick_soon(bus);
        return 0;
}

void bus_tick_soon(struct bus *bus) {
        int enabled = SD_EVENT_OFF;

        if (!bus->bus || !bus->tick || sd_event_source_get_enabled(bus->tick, &enabled) != 0)
                return;
        (void) sd_event_source_set_time_relative(bus->tick, USEC_PER_SEC);
        (void) sd_event_source_set_enabled(bus->tick, SD_EVENT_ONESHOT);
}

/* ---- life ---- */

int bus_new(struct broker *broker) {
        struct bus *bus;

        if (broker->options->bus && strcmp(broker->options->bus, "none") == 0)
                return 0;
        bus = calloc(1, sizeof *bus);
        if (!bus)
                return -ENOMEM;
        bus->broker = broker;
        bus->arrivals = (struct log_limit) { .interval_us = USEC_PER_SEC, .burst = 20 };
        (void) pthread_mutex_init(&bus->lock, NULL);
        bus->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (bus->eventfd < 0) {
                (void) pthread_mutex_destroy(&bus->lock);
                free(bus);
                return -EMFILE;
        }
        broker->bus = bus;
        return 0;
}

int bus_start(struct broker *broker) {
        const char *which = broker->options->bus;
        _cleanup_free_ char *address = NULL;
        struct bus *bus = broker->bus;
        int r;

        if (!bus)
                return 0;
        bus->started_us = bus_realtime_us();
        r = find_address(which, &address);
        if (r >= 0)
                r = make_name(broker->options->name, &bus->name);
        if (r >= 0)
                r = connect_to(bus, address);
        if (r < 0) {
                disconnect(bus);
                if (is_default(which)) {
                        log_notice("not on the system bus: %s; --bus=none keeps this line away", strerror(-r));
                        return 0;
                }
                /* A VM that runs does not stand still for want of being looked at. */
                if (broker->resumed) {
                        log_warning("--bus=%s: %s; clients are served as before, and nobody sees this broker", which,
                                    strerror(-r));
                        return 0;
                }
                log_error("--bus=%s: %s; without this option a broker goes on if there is no bus", which,
                          address ? strerror(-r) : "no such bus here ($DBUS_SESSION_BUS_ADDRESS)");
                return r;
        }
        r = watch(bus);
        if (r >= 0)
                r = add_all(bus);
        if (r >= 0)
                r = sd_event_add_time_relative(broker->event, &bus->tick, CLOCK_MONOTONIC, USEC_PER_SEC, 0, on_tick, bus);
        if (r >= 0)
                r = bus_start_news(bus);
        if (r < 0)
                log_error("cannot offer anything on the bus: %s", strerror(-r));
        return r;
}

void bus_stop(struct broker *broker) {
        struct bus *bus = broker->bus;

        if (!bus)
                return;
        bus->tick = sd_event_source_disable_unref(bus->tick);
        bus->news_source = sd_event_source_disable_unref(bus->news_source);
        disconnect(bus);
}

void bus_free(struct broker *broker) {
        struct bus *bus = broker->bus;

        if (!bus)
                return;
        broker->bus = NULL;
        (void) fd_close(bus->eventfd);
        (void) pthread_mutex_destroy(&bus->lock);
        free(bus->name);
        free(bus);
}
