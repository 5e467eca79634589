/* SPDX-License-Identifier: MIT */
/* Finding brokers on a bus, and asking them. */
#pragma once

#include <json-c/json.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "client/ctl/ctl.h"
#include "common/cleanup.h"

#define BUS_PREFIX "org.pagebroker1"
#define BUS_ROOT "/org/pagebroker1"
#define BUS_VM BUS_ROOT "/vm"

/* For a broker that hangs: everything it answers by itself takes milliseconds. */
#define BUS_TIMEOUT_US (10 * 1000000ull)

struct broker {
        sd_bus *bus; /* the list's */
        char *name;  /* of the VM */
        char *service;
};

struct brokers {
        sd_bus *bus;
        const char *bus_name; /* for people: "the system bus" */
        struct broker *list;  /* by name */
        unsigned n;
};

void brokers_done(struct brokers *brokers);
#define _cleanup_brokers_ _cleanup_(brokers_done)

/* Connects to the bus and lists the brokers there, which may be none. STATUS_OK or complained. */
int brokers_find(const struct ctl *ctl, struct brokers *ret);

/* Lists anew, on the same bus. Negative errno, not complained of. */
int brokers_list(struct brokers *brokers);

/* The one that the command line names, or the only one. STATUS_OK or complained: which there are, how to start one. */
int broker_pick(const struct ctl *ctl, const struct brokers *brokers, const struct broker **ret);

/* Both. */
int broker_find(const struct ctl *ctl, struct brokers *ret_brokers, const struct broker **ret);

/* "org.pagebroker1.web1" -> "web1" (newly allocated); NULL if it is no broker's name. */
char *broker_name_of_service(const char *service);

/* Says that there is none, and how to start one. */
int broker_complain_none(const char *where);

/* A call of a method, without its arguments. */
int broker_make_call(const struct broker *broker, const char *path, const char *interface, const char *member,
                     sd_bus_message **ret);

/*
 * Calls a method; the arguments as sd_bus_message_append(). 0 with the answer, or a negative errno that has not been
 * complained of, with *ret_error set.
 */
int broker_call(const struct broker *broker, const char *path, const char *interface, const char *member,
                sd_bus_error *ret_error, sd_bus_message **ret, const char *types, ...);

/* A failed call in words: "what: why". Returns the status to end with. */
int broker_complain(const struct broker *broker, const char *what, int r, const sd_bus_error *error);

/* broker_call() of the VM's object with its answer as JSON (NULL where it has none). STATUS_OK or complained: `what`
 * failed. */
#define broker_ask(broker, what, member, ret, ...)                                                                 \
        ({                                                                                                         \
                _cleanup_(sd_bus_error_free) sd_bus_error _error = SD_BUS_ERROR_NULL;                              \
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *_reply = NULL;                                    \
                int _r = broker_call((broker), BUS_VM, BUS_PREFIX ".VM", (member), &_error, &_reply, __VA_ARGS__); \
                                                                                                                   \
                broker_take((broker), (what), _r, &_error, _reply, (ret));                                         \
        })
int broker_take(const struct broker *broker, const char *what, int r, const sd_bus_error *error, sd_bus_message *reply,
                json_object **ret);

/* Waits until the one that the command line names, or any if it names none, is on the bus and answers; `limit_us` is
 * CLOCK_MONOTONIC. Then 1 with the list anew; 0 when the time is over; negative errno, not complained of. */
int broker_await(const struct ctl *ctl, struct brokers *brokers, uint64_t limit_us, const struct broker **ret);
