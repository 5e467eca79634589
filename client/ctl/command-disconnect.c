/* SPDX-License-Identifier: MIT */
/* pagebrokerctl disconnect */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

static bool parse_id(const char *text, uint64_t *ret) {
        char *end;

        errno = 0;
        *ret = strtoull(text, &end, 10);
        return errno == 0 && end != text && !*end && text[0] != '-';
}

/* A name will do, where one client only has it. */
static int find_by_name(const struct broker *broker, const char *name, uint64_t *ret) {
        _cleanup_view_ struct view view = {};
        unsigned n = 0;
        int status = view_read(broker, &view);

        if (status != STATUS_OK)
                return status;
        for (unsigned i = 0; i < json_length(view.clients); i++) {
                const json_object *client = json_object_array_get_idx(view.clients, i);

                if (strcmp(json_text(client, "name"), name) != 0 || !json_is(client, "connected"))
                        continue;
                *ret = json_u64(client, "id");
                n++;
        }
        if (n == 1)
                return STATUS_OK;
        if (n == 0)
                return complain(STATUS_FAILURE, "no client of %s that is connected is called %s; see pagebrokerctl clients",
                                broker->name, text_safe(name).s);
        return complain(STATUS_FAILURE,
                        "%u clients of %s are called %s: name one by its number, see pagebrokerctl clients", n,
                        broker->name, text_safe(name).s);
}

int command_disconnect(const struct ctl *ctl, char **args, unsigned n UNUSED) {
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        uint64_t id;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        if (!parse_id(args[0], &id)) {
                status = find_by_name(broker, args[0], &id);
                if (status != STATUS_OK)
                        return status;
        }
        status = broker_ask(broker, "disconnect", "DisconnectClient", NULL, "t", id);
        if (status == STATUS_OK && ctl->json) {
                _cleanup_json_ json_object *object = json_new_object();

                json_set_text(object, "name", broker->name);
                json_set_u64(object, "client", id);
                json_print(object);
        }
        return status;
}
