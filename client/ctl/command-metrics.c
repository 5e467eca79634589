/* SPDX-License-Identifier: MIT */
/* pagebrokerctl metrics */
#include <stdlib.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/metrics-listen.h"
#include "client/ctl/metrics-text.h"

#define ANSWER_LIMIT_US (2 * 1000000ull)

static void read_vm(const struct broker *broker, struct metrics_vm *ret) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        ret->name = broker->name;
        ret->answers = view_try(broker, &ret->view, &error) >= 0;
}

int metrics_collect(const struct ctl *ctl, FILE *file, enum metrics_format format) {
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_free_ struct metrics_vm *vms = NULL;
        const struct broker *first;
        int status = brokers_find(ctl, &brokers);
        unsigned n;

        if (status == STATUS_OK && ctl->machine)
                status = broker_pick(ctl, &brokers, &first);
        if (status != STATUS_OK)
                return status;
        /* One that hangs must not use up the scraper's time for all others. */
        (void) sd_bus_set_method_call_timeout(brokers.bus, ANSWER_LIMIT_US);
        /* None is no error: a host without a restoring VM is a host with no samples. */
        first = ctl->machine ? first : brokers.list;
        n = ctl->machine ? 1 : brokers.n;
        vms = calloc(n + 1, sizeof *vms);
        if (!vms)
                return complain(STATUS_FAILURE, "out of memory");
        for (unsigned i = 0; i < n; i++)
                read_vm(&first[i], &vms[i]);
        metrics_write(file, format, vms, n);
        for (unsigned i = 0; i < n; i++)
                view_done(&vms[i].view);
        return STATUS_OK;
}

int command_metrics(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        return ctl->listen ? metrics_listen(ctl) : metrics_collect(ctl, stdout, METRICS_OPEN);
}
