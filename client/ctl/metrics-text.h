/* SPDX-License-Identifier: MIT */
/* OpenMetrics 1.0: https://openmetrics.io. One text for all brokers; the label vm tells them apart. For those who do not
 * ask for it, Prometheus's older text format 0.0.4: curl and promtool. */
#pragma once

#include <stdio.h>

#include "client/ctl/bus.h"
#include "client/ctl/view.h"

enum metrics_format {
        METRICS_OPEN,
        METRICS_PLAIN,
};

struct metrics_vm {
        const char *name;
        bool answers; /* else `view` is empty */
        struct view view;
};

void metrics_write(FILE *file, enum metrics_format format, const struct metrics_vm *vms, unsigned n);

/* Reads every broker (or the one that the command line names) anew and writes the text. STATUS_OK or complained. */
int metrics_collect(const struct ctl *ctl, FILE *file, enum metrics_format format);
