/* SPDX-License-Identifier: MIT */
/* pagebrokerctl fill */
#include <stdio.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/socket.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

struct fill {
        bool has_switch, on;
        bool has_rate;
        uint64_t rate; /* bytes per second */
};

static int parse_fill(char **args, unsigned n, struct fill *ret) {
        struct fill fill = { .on = strcmp(args[0], "on") == 0 };

        if (strcmp(args[0], "rate") == 0) {
                if (n != 2 || !text_parse_size(args[1], &fill.rate))
                        return complain(-1, "fill rate: bytes a second, such as 64M; 0 for no limit");
                fill.has_rate = true;
        } else if (fill.on || strcmp(args[0], "off") == 0) {
                if (n > 1)
                        return complain(-1, "'%s': one word too many; try --help", args[1]);
                fill.has_switch = true;
        } else
                return complain(-1, "fill: on, off or rate?");
        *ret = fill;
        return 0;
}

static void print(const char *name, bool on, const uint64_t *rate, bool complete) {
        _cleanup_json_ json_object *object = json_new_object();

        if (name)
                json_set_text(object, "name", name);
        json_set_bool(object, "fill", on);
        if (rate)
                json_set_u64(object, "fill_rate", *rate);
        if (name)
                json_set_bool(object, "complete", complete);
        json_print(object);
}

/* What is not said stays. */
static int fill_by_bus(const struct ctl *ctl, const struct broker *broker, const struct fill *fill) {
        _cleanup_view_ struct view view = {};
        uint64_t rate;
        int status, on;

        status = view_read(broker, &view);
        if (status != STATUS_OK)
                return status;
        if (json_is(view.vm, "complete")) {
                rate = json_u64(view.vm, "fill_rate");
                if (ctl->json)
                        print(broker->name, false, &rate, true);
                else
                        (void) printf("all of %s is here: nothing is left to fill\n", broker->name);
                return STATUS_OK;
        }
        on = fill->has_switch ? fill->on : json_is(view.vm, "fill");
        rate = fill->has_rate ? fill->rate : json_u64(view.vm, "fill_rate");
        status = broker_ask(broker, "fill", "SetFill", NULL, "bt", on, rate);
        if (status == STATUS_OK && ctl->json)
                print(broker->name, on, &rate, false);
        return status;
}

int command_fill(const struct ctl *ctl, char **args, unsigned n) {
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        struct fill fill = {};
        int status;

        if (parse_fill(args, n, &fill) < 0)
                return STATUS_USAGE;
        if (ctl->socket && fill.has_rate)
                return complain(STATUS_USAGE, "fill rate needs a bus: by the socket, the fill is switched on and off");
        if (ctl->socket) {
                status = socket_set_fill(ctl, fill.on);
                if (status == STATUS_OK && ctl->json)
                        print(NULL, fill.on, NULL, false);
                return status;
        }
        status = broker_find(ctl, &brokers, &broker);
        return status == STATUS_OK ? fill_by_bus(ctl, broker, &fill) : status;
}
