/* SPDX-License-Identifier: MIT */
/* pagebrokerctl audit */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"

static const char *finding_text(const json_object *finding, size_t i) {
        return json_object_get_string(json_object_array_get_idx(finding, i)) ?: "";
}

static json_object *name_findings(const json_object *rows) {
        json_object *findings = json_new_array();

        for (unsigned i = 0; i < json_length(rows); i++) {
                const json_object *row = json_object_array_get_idx(rows, i);
                json_object *finding = json_new_object();

                json_set_text(finding, "what", finding_text(row, 0));
                json_set_text(finding, "text", finding_text(row, 1));
                if (json_object_array_add(findings, finding) < 0)
                        abort();
        }
        return findings;
}

static void print_findings(const struct broker *broker, const json_object *object) {
        const json_object *findings = json_get(object, "findings");

        for (unsigned i = 0; i < json_length(findings); i++) {
                const json_object *finding = json_object_array_get_idx(findings, i);

                (void) printf("%s: %s\n", text_safe(json_text(finding, "what")).s,
                              text_safe(json_text(finding, "text")).s);
        }
        (void) printf("%s: " COUNTED_FORMAT " and " COUNTED_FORMAT " in flight looked at: ", broker->name,
                      COUNTED(json_u64(object, "pages"), "page"), COUNTED(json_u64(object, "slices"), "slice"));
        if (json_length(findings) == 0)
                (void) puts("the books balance");
        else
                (void) printf(COUNTED_FORMAT "; please report this, with the broker's log\n",
                              COUNTED((uint64_t) json_length(findings), "finding"));
}

int command_audit(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_json_ json_object *reply = NULL, *object = json_new_object();
        _cleanup_brokers_ struct brokers brokers = {};
        const struct broker *broker;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        status = broker_ask(broker, "audit", "Audit", &reply, NULL);
        if (status != STATUS_OK)
                return status;
        if (json_length(reply) != 3)
                return complain(STATUS_FAILURE, "audit: the broker of %s answers something else", broker->name);
        json_set_text(object, "name", broker->name);
        json_set(object, "findings", name_findings(json_object_array_get_idx(reply, 0)));
        json_set(object, "pages", json_object_get(json_object_array_get_idx(reply, 1)));
        json_set(object, "slices", json_object_get(json_object_array_get_idx(reply, 2)));
        if (ctl->json)
                json_print(object);
        else
                print_findings(broker, object);
        return json_length(json_get(object, "findings")) > 0 ? STATUS_FINDINGS : STATUS_OK;
}
