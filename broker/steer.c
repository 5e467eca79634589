/* SPDX-License-Identifier: MIT */
/* The background fill as clients and admins want it, also after a restart. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/broker.h"
#include "broker/bus/bus.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "common/log.h"

void broker_set_fill(struct broker *broker, bool on, uint64_t rate, const char *client) {
        char limit[64] = "";

        if (broker->ledger) {
                broker->ledger->data->fill = on;
                broker->ledger->data->fill_rate = rate;
        }
        pager_set_fill_rate(broker->pager, rate);
        pager_set_fill(broker->pager, on);
        bus_fill_changed(broker);
        if (rate > 0)
                (void) snprintf(limit, sizeof limit, ", at most %" PRIu64 " bytes/s", rate);
        if (!client)
                log_info("background fill %s%s (asked for on the bus)", on ? "on" : "off", limit);
        else if (broker_may_log_client())
                log_event(LOG_INFO, (.client = client), "background fill %s%s (asked for by client %s)", on ? "on" : "off",
                          limit, client);
}

void broker_begin_fill(struct broker *broker, struct pager_options *pager) {
        struct ledger_data *data = broker->ledger ? broker->ledger->data : NULL;

        if (!data)
                return;
        /* An option that is another one now is the admin's latest word. */
        if (broker->resumed && data->fill_option == (uint32_t) pager->fill)
                pager->fill = data->fill;
        else
                data->fill = data->fill_option = pager->fill;
        if (broker->resumed && data->fill_rate_option == pager->fill_rate)
                pager->fill_rate = data->fill_rate;
        else
                data->fill_rate = data->fill_rate_option = pager->fill_rate;
}
