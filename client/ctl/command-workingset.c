/* SPDX-License-Identifier: MIT */
/* pagebrokerctl workingset */
#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/workingset.h"

#define WHICH (OPTION_BUS | OPTION_MACHINE)

static const struct verb {
        const char *name;
        uint32_t options;
        bool needs_file;
        int (*run)(const struct ctl *ctl, const char *path);
} verbs[] = {
        { "show", OPTION_JSON, true, set_show },
        { "record", WHICH | OPTION_JSON | OPTION_FOR, true, set_record },
        { "stop", WHICH | OPTION_JSON, false, set_stop },
        { "replay", WHICH | OPTION_JSON | OPTION_FORCE | OPTION_WAIT, true, set_replay },
};

int command_workingset(const struct ctl *ctl, char **args, unsigned n) {
        for (unsigned i = 0; i < ELEMENTS(verbs); i++) {
                uint32_t wrong = ctl->given & ~verbs[i].options;

                if (strcmp(args[0], verbs[i].name) != 0)
                        continue;
                if (wrong)
                        return complain(STATUS_USAGE, "%s does not go with workingset %s", option_name(wrong),
                                        verbs[i].name);
                if (verbs[i].needs_file && n < 2)
                        return complain(STATUS_USAGE, "workingset %s: which file?", verbs[i].name);
                return verbs[i].run(ctl, n > 1 ? args[1] : NULL);
        }
        return complain(STATUS_USAGE, "workingset: show, record, stop or replay?");
}
