/* SPDX-License-Identifier: MIT */
/* pagebrokerctl prefetch, heal: ranges of pages to be fetched soon, or anew. */
#include <stdio.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/range.h"
#include "client/ctl/socket.h"
#include "client/ctl/text.h"
#include "client/ctl/view.h"

static int prefetch_part(const struct broker *broker, const struct range_part *part, uint64_t *ret_done) {
        *ret_done = part->n_pages;
        return broker_ask(broker, "prefetch", "Prefetch", NULL, "utt", part->memory, part->first_page, part->n_pages);
}

static int heal_part(const struct broker *broker, const struct range_part *part, uint64_t *ret_done) {
        _cleanup_json_ json_object *reply = NULL;
        int status = broker_ask(broker, "heal", "Heal", &reply, "utt", part->memory, part->first_page, part->n_pages);

        *ret_done = json_object_get_uint64(reply);
        return status;
}

static void say(const struct ctl *ctl, const char *name, const char *key, uint64_t n, const char *words) {
        if (ctl->json) {
                _cleanup_json_ json_object *object = json_new_object();

                if (name)
                        json_set_text(object, "name", name);
                json_set_u64(object, key, n);
                json_print(object);
        } else
                (void) printf(COUNTED_FORMAT " %s\n", COUNTED(n, "page"), words);
}

static int run(const struct ctl *ctl, const struct range *range, const char *key, const char *words,
               int (*run_part)(const struct broker *broker, const struct range_part *part, uint64_t *ret_done)) {
        struct range_part parts[RANGE_PARTS_MAX];
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_view_ struct view view = {};
        const struct broker *broker;
        uint64_t sum = 0;
        unsigned n = 0;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status == STATUS_OK)
                status = view_read(broker, &view);
        if (status == STATUS_OK)
                status = range_find(ctl, &view, range, parts, &n);
        for (unsigned i = 0; i < n && status == STATUS_OK; i++) {
                uint64_t done = 0;

                status = run_part(broker, &parts[i], &done);
                sum += status == STATUS_OK ? done : 0;
        }
        if (status == STATUS_OK)
                say(ctl, broker->name, key, sum, words);
        return status;
}

int command_prefetch(const struct ctl *ctl, char **args, unsigned n) {
        struct range range = {};

        if (range_parse(args, n, &range) < 0)
                return STATUS_USAGE;
        return run(ctl, &range, "pages_asked_for", "asked for", prefetch_part);
}

int command_heal(const struct ctl *ctl, char **args, unsigned n) {
        static const char key[] = "pages_healed", words[] = "no longer poisoned: they will be asked for again";
        struct range range = {};
        uint64_t healed = 0;
        int status;

        if (range_parse(args, n, &range) < 0)
                return STATUS_USAGE;
        if (!ctl->socket)
                return run(ctl, &range, key, words, heal_part);
        if (ctl->memory)
                return complain(STATUS_USAGE, "--memory needs a bus: by the socket, addresses are the guest's");
        status = socket_heal(ctl, range.address, range.size, &healed);
        if (status == STATUS_OK)
                say(ctl, NULL, key, healed, words);
        return status;
}
