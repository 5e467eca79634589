/* SPDX-License-Identifier: MIT */
/* pagebrokerctl map */
#include <stdlib.h>
#include <unistd.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/decode.h"
#include "client/ctl/map-data.h"
#include "client/ctl/map-picture.h"
#include "client/ctl/map-terminal.h"

/* $NO_COLOR: no-color.org. */
static bool is_colored(const struct ctl *ctl) {
        const char *no_color = getenv("NO_COLOR");

        if (ctl->color != COLOR_AUTO)
                return ctl->color == COLOR_ALWAYS;
        return isatty(STDOUT_FILENO) && !(no_color && *no_color);
}

int command_map(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        uint64_t n_bins = ctl->svg || ctl->png || ctl->json ? PICTURE_BINS : map_terminal_bins();
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_map_ struct map map = {};
        const struct broker *broker;
        int status;

        status = broker_find(ctl, &brokers, &broker);
        if (status != STATUS_OK)
                return status;
        status = map_read(broker, ctl->memory, n_bins, &map);
        if (status == STATUS_OK && ctl->svg)
                status = picture_write(&map, PICTURE_SVG, ctl->svg);
        if (status == STATUS_OK && ctl->png)
                status = picture_write(&map, PICTURE_PNG, ctl->png);
        if (status != STATUS_OK)
                return status;
        if (ctl->json) {
                _cleanup_json_ json_object *object = map_to_json(&map);

                json_print(object);
        } else if (!ctl->svg && !ctl->png)
                map_terminal_print(&map, is_colored(ctl));
        return STATUS_OK;
}
