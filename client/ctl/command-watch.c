/* SPDX-License-Identifier: MIT */
/* pagebrokerctl watch */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/events.h"
#include "client/ctl/socket.h"
#include "client/ctl/status-text.h"
#include "client/ctl/view.h"
#include "common/clock.h"

#define GOES_ON (-1)
#define GONE (-2)

static uint64_t interval_us(const struct ctl *ctl) {
        return (uint64_t) (ctl->interval_s * (double) USEC_PER_SEC);
}

/* Prints it; how it ends, or GOES_ON. */
static int show(const struct ctl *ctl, const json_object *vm) {
        if (ctl->json)
                json_print(vm);
        else
                status_print_line(vm);
        if (ferror(stdout))
                return STATUS_FAILURE;
        if (json_is(vm, "complete"))
                return STATUS_OK;
        return status_complain_if_stuck(vm) < 0 ? STATUS_FAILURE : GOES_ON;
}

static int watch_by_socket(const struct ctl *ctl) {
        const struct timespec pause = clock_timespec(interval_us(ctl));
        pb_client *client = NULL;
        int status;

        status = socket_connect(ctl, PB_ROLE_OBSERVER, &client);
        if (status != STATUS_OK)
                return status;
        for (;;) {
                _cleanup_json_ json_object *vm = NULL;

                status = socket_read(client, &vm);
                if (status == STATUS_OK)
                        status = show(ctl, vm);
                if (status != GOES_ON)
                        break;
                (void) nanosleep(&pause, NULL);
        }
        client = pb_disconnect(client);
        return status;
}

/* Until the interval has passed, or something happened that the next line should show. */
static int take_events(struct events *events, uint64_t until_us) {
        sd_bus *bus = events->broker->bus;
        int r;

        events->has_news = false;
        while (!events->has_news) {
                uint64_t now = clock_now_us();

                r = sd_bus_process(bus, NULL);
                if (r < 0)
                        return r;
                if (r > 0)
                        continue;
                if (now >= until_us)
                        return 0;
                r = sd_bus_wait(bus, until_us - now);
                if (r < 0 && r != -EINTR)
                        return r;
        }
        return 0;
}

static bool is_gone(const sd_bus_error *error) {
        return sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_NO_REPLY);
}

/* One broker, until all is said or it has gone. */
static int watch_broker(const struct ctl *ctl, const struct broker *broker) {
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *slot = NULL;
        struct events events = { .broker = broker, .json = ctl->json };
        int status, r;

        r = events_subscribe(&events, &slot);
        while (r >= 0) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                uint64_t next_us = clock_now_us() + interval_us(ctl);
                _cleanup_view_ struct view view = {};

                r = view_try(broker, &view, &error);
                if (r < 0)
                        return is_gone(&error) ? GONE : broker_complain(broker, "reading", r, &error);
                status = show(ctl, view.vm);
                if (status != GOES_ON)
                        return status;
                r = take_events(&events, next_us);
        }
        return complain(STATUS_FAILURE, "watching %s: %s", broker->name, strerror(-r));
}

static void say(const struct ctl *ctl, const char *event, const char *name, const char *words) {
        if (ctl->json) {
                _cleanup_json_ json_object *object = json_new_object();

                json_set_text(object, "event", event);
                json_set_text(object, "name", name);
                json_print(object);
        } else
                (void) printf("the broker of %s %s\n", name, words);
}

/* A broker that is being restarted, or upgraded, comes back with the same memory: its watcher stays. */
static int watch_restarts(struct ctl *ctl, struct brokers *brokers, const struct broker *broker) {
        _cleanup_free_ char *name = strdup(broker->name);
        int status, r;

        ctl->machine = name;
        while ((status = watch_broker(ctl, broker)) == GONE) {
                say(ctl, "broker_gone", name, "has gone");
                r = broker_await(ctl, brokers, clock_now_us() + (uint64_t) (ctl->timeout_s * (double) USEC_PER_SEC),
                                 &broker);
                if (r < 0)
                        return complain(STATUS_FAILURE, "waiting on %s: %s", brokers->bus_name, strerror(-r));
                if (r == 0)
                        return complain(STATUS_NO_BROKER, "the broker of %s has not come back in %g seconds", name,
                                        ctl->timeout_s);
                say(ctl, "broker_back", name, "is back");
        }
        return status;
}

int command_watch(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        struct ctl copy = *ctl;
        int status;

        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        if (ctl->socket)
                return watch_by_socket(ctl);
        status = broker_find(ctl, &brokers, &broker);
        return status == STATUS_OK ? watch_restarts(&copy, &brokers, broker) : status;
}
