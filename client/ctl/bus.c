/* SPDX-License-Identifier: MIT */
#include "client/ctl/bus.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"

#define NAME_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

char *broker_name_of_service(const char *service) {
        _cleanup_free_ char *path = NULL;
        char *name = NULL;

        if (strncmp(service, BUS_PREFIX ".", strlen(BUS_PREFIX ".")) != 0)
                return NULL;
        /* The label is escaped as in an object's path, so that sd-bus decodes it. */
        if (asprintf(&path, "/vm/%s", service + strlen(BUS_PREFIX ".")) < 0)
                abort();
        if (!sd_bus_object_path_is_valid(path) || sd_bus_path_decode(path, "/vm", &name) <= 0)
                return NULL;
        /* What pagebrokerd takes. Another program may call itself whatever it likes, and this goes to a terminal. */
        if (!*name || strspn(name, NAME_LETTERS) != strlen(name)) {
                free(name);
                return NULL;
        }
        return name;
}

static int compare_brokers(const void *a, const void *b) {
        return strcmp(((const struct broker *) a)->name, ((const struct broker *) b)->name);
}

static void add_broker(struct brokers *brokers, const char *service) {
        _cleanup_free_ char *name = broker_name_of_service(service);
        struct broker *list;

        if (!name)
                return;
        list = reallocarray(brokers->list, brokers->n + 1, sizeof *list);
        if (!list)
                abort();
        brokers->list = list;
        list[brokers->n] = (struct broker) { .bus = brokers->bus, .name = PTR_TAKE(name), .service = strdup(service) };
        if (!list[brokers->n++].service)
                abort();
}

static void forget_list(struct brokers *brokers) {
        for (unsigned i = 0; i < brokers->n; i++) {
                free(brokers->list[i].name);
                free(brokers->list[i].service);
        }
        free(brokers->list);
        brokers->list = NULL;
        brokers->n = 0;
}

void brokers_done(struct brokers *brokers) {
        forget_list(brokers);
        brokers->bus = sd_bus_flush_close_unref(brokers->bus);
        *brokers = (struct brokers) {};
}

static int open_address(const char *address, sd_bus **ret) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        int r = sd_bus_new(&bus);

        if (r < 0)
                return r;
        r = sd_bus_set_address(bus, address);
        if (r < 0)
                return r;
        r = sd_bus_set_bus_client(bus, true);
        if (r < 0)
                return r;
        r = sd_bus_start(bus);
        if (r < 0)
                return r;
        *ret = PTR_TAKE(bus);
        return 0;
}

int brokers_list(struct brokers *brokers) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *service;
        int r;

        r = sd_bus_call_method(brokers->bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                               "ListNames", NULL, &reply, NULL);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "s");
        if (r < 0)
                return r;
        forget_list(brokers);
        while ((r = sd_bus_message_read_basic(reply, 's', &service)) > 0)
                add_broker(brokers, service);
        if (brokers->n > 0)
                qsort(brokers->list, brokers->n, sizeof *brokers->list, compare_brokers);
        return r;
}

/* `which`: as --bus=. */
static int open_and_list(const char *which, struct brokers *ret) {
        _cleanup_brokers_ struct brokers brokers = {};
        int r;

        if (strcmp(which, "system") == 0) {
                brokers.bus_name = "the system bus";
                r = sd_bus_open_system(&brokers.bus);
        } else if (strcmp(which, "session") == 0) {
                brokers.bus_name = "the session bus";
                r = sd_bus_open_user(&brokers.bus);
        } else {
                brokers.bus_name = "this bus";
                r = open_address(which, &brokers.bus);
        }
        if (r < 0)
                return r;
        (void) sd_bus_set_method_call_timeout(brokers.bus, BUS_TIMEOUT_US);
        r = brokers_list(&brokers);
        if (r < 0)
                return r;
        *ret = brokers;
        brokers = (struct brokers) {};
        return 0;
}

int brokers_find(const struct ctl *ctl, struct brokers *ret) {
        struct brokers session;
        int r = open_and_list(ctl->bus ?: "system", ret);

        if (ctl->bus && r == -ENOMEDIUM)
                return complain(STATUS_FAILURE, "--bus=%s: no such bus here ($DBUS_SESSION_BUS_ADDRESS)", ctl->bus);
        if (ctl->bus)
                return r < 0 ? complain(STATUS_FAILURE, "the bus %s cannot be reached: %s", ctl->bus, strerror(-r))
                             : STATUS_OK;
        if (r >= 0 && ret->n > 0)
                return STATUS_OK;
        /* A user's own brokers. */
        if (open_and_list("session", &session) >= 0) {
                if (r >= 0 && session.n == 0)
                        brokers_done(&session);
                else {
                        if (r >= 0)
                                brokers_done(ret);
                        *ret = session;
                }
                return STATUS_OK;
        }
        if (r < 0)
                return complain(
                        STATUS_NO_BROKER,
                        "the system bus cannot be reached (%s), and without a bus brokers are not found. Ask one "
                        "by its socket:\n  pagebrokerctl --socket=PATH status",
                        strerror(-r));
        return STATUS_OK;
}

int broker_complain_none(const char *where) {
        return complain(STATUS_NO_BROKER,
                        "no broker is running on %s. To start one for the VM web1:\n"
                        "  systemctl start pagebroker@web1        (described in /etc/pagebroker/web1.conf)\n"
                        "  pagebrokerd --name=web1 --socket=/run/web1.socket --memory=ram,source=file:SNAPSHOT\n"
                        "One that has no bus, or whose bus has been started anew since, is asked by its socket:\n"
                        "  pagebrokerctl --socket=PATH status",
                        where);
}

static int complain_which(const struct brokers *brokers, const char *wrong) {
        _cleanup_free_ char *names = strdup("");

        for (unsigned i = 0; names && i < brokers->n; i++) {
                char *longer = NULL;

                if (asprintf(&longer, "%s%s%s", names, i > 0 ? ", " : "", brokers->list[i].name) < 0)
                        abort();
                free(names);
                names = longer;
        }
        if (wrong)
                return complain(STATUS_NO_BROKER, "no broker on %s is called %s; there is: %s", brokers->bus_name,
                                wrong, names);
        return complain(STATUS_NO_BROKER, "%u brokers are running; name one of them by -m: %s", brokers->n, names);
}

int broker_pick(const struct ctl *ctl, const struct brokers *brokers, const struct broker **ret) {
        if (brokers->n == 0)
                return broker_complain_none(brokers->bus_name);
        for (unsigned i = 0; ctl->machine && i < brokers->n; i++)
                if (strcmp(brokers->list[i].name, ctl->machine) == 0) {
                        *ret = &brokers->list[i];
                        return STATUS_OK;
                }
        if (ctl->machine || brokers->n > 1)
                return complain_which(brokers, ctl->machine);
        *ret = &brokers->list[0];
        return STATUS_OK;
}

int broker_find(const struct ctl *ctl, struct brokers *ret_brokers, const struct broker **ret) {
        struct brokers brokers = {};
        int status = brokers_find(ctl, &brokers);

        if (status != STATUS_OK)
                return status;
        status = broker_pick(ctl, &brokers, ret);
        if (status != STATUS_OK)
                brokers_done(&brokers);
        else
                *ret_brokers = brokers;
        return status;
}

int broker_make_call(const struct broker *broker, const char *path, const char *interface, const char *member,
                     sd_bus_message **ret) {
        int r = sd_bus_message_new_method_call(broker->bus, ret, broker->service, path, interface, member);

        /* A broker that went since ListNames is not to be started by the bus. */
        if (r >= 0)
                (void) sd_bus_message_set_auto_start(*ret, false);
        return r;
}

int broker_call(const struct broker *broker, const char *path, const char *interface, const char *member,
                sd_bus_error *ret_error, sd_bus_message **ret, const char *types, ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        va_list ap;
        int r;

        r = broker_make_call(broker, path, interface, member, &call);
        if (r < 0)
                return r;
        if (types && *types) {
                va_start(ap, types);
                r = sd_bus_message_appendv(call, types, ap);
                va_end(ap);
                if (r < 0)
                        return r;
        }
        r = sd_bus_call(broker->bus, call, 0, ret_error, ret);
        return r < 0 ? r : 0;
}

int broker_complain(const struct broker *broker, const char *what, int r, const sd_bus_error *error) {
        struct text message = text_safe(error && error->message ? error->message : strerror(-r));

        if (sd_bus_error_has_name(error, SD_BUS_ERROR_ACCESS_DENIED) || r == -EPERM || r == -EACCES)
                return complain(STATUS_NOT_ALLOWED,
                                "%s: not allowed (%s). It is for root and the user that the broker of %s runs as", what,
                                message.s, broker->name);
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return complain(STATUS_NO_BROKER, "%s: the broker of %s has gone", what, broker->name);
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_NO_REPLY) || r == -ETIMEDOUT)
                return complain(STATUS_FAILURE, "%s: the broker of %s does not answer", what, broker->name);
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_UNKNOWN_METHOD))
                return complain(STATUS_FAILURE, "%s: the broker of %s is older than this and cannot do it", what,
                                broker->name);
        return complain(STATUS_FAILURE, "%s: %s", what, error && error->message ? error->message : strerror(-r));
}

int broker_take(const struct broker *broker, const char *what, int r, const sd_bus_error *error, sd_bus_message *reply,
                json_object **ret) {
        if (r >= 0 && ret)
                r = decode_message(reply, ret);
        return r < 0 ? broker_complain(broker, what, r, error) : STATUS_OK;
}
