/* SPDX-License-Identifier: MIT */
/* pagebrokerctl metrics */
#include <stdlib.h>
#include <string.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/metrics-listen.h"
#include "client/ctl/metrics-text.h"

/* A scraper has some 10 s for everything. */
#define ANSWER_LIMIT_US (2 * 1000000ull)

int metrics_collect(const struct ctl *ctl, FILE *file, enum metrics_format format) {
        _cleanup_brokers_ struct brokers brokers = {};
        _cleanup_free_ struct metrics_vm *vms = NULL;
        _cleanup_free_ struct view_answer *answers = NULL;
        const struct broker *first;
        int status = brokers_find(ctl, &brokers);
        unsigned n;

        if (status == STATUS_OK && ctl->machine)
                status = broker_pick(ctl, &brokers, &first);
        if (status != STATUS_OK)
                return status;
        /* None is no error: a host without a restoring VM is a host with no samples. */
        first = ctl->machine ? first : brokers.list;
        n = ctl->machine ? 1 : brokers.n;
        vms = calloc(n + 1, sizeof *vms);
        answers = calloc(n + 1, sizeof *answers);
        if (!vms || !answers)
                return complain(STATUS_FAILURE, "out of memory");
        /* One that hangs must not use up the scraper's time for all others. */
        views_read(brokers.bus, first, n, ANSWER_LIMIT_US, answers);
        for (unsigned i = 0; i < n; i++)
                vms[i] = (struct metrics_vm) { .name = first[i].name,
                                               .view = answers[i].view,
                                               .answers = answers[i].r >= 0 };
        metrics_write(file, format, vms, n);
        for (unsigned i = 0; i < n; i++)
                view_answer_done(&answers[i]);
        return STATUS_OK;
}

int command_metrics(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        return ctl->listen ? metrics_listen(ctl) : metrics_collect(ctl, stdout, METRICS_OPEN);
}
