/* SPDX-License-Identifier: MIT */
/*
 * Feeds the supervisor's watchdog (WatchdogSec= of systemd) as long as the pager gets round: a broker that lives and serves
 * nobody is better restarted. On the control thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

struct pager;

struct watchdog {
        struct pager *pager;
        int notify;
        sd_event_source *timer;
        uint64_t period_us;
        uint64_t turns; /* of the pager, when it was last looked at */
        uint64_t stuck_us; /* since when it has not moved; 0: it moves */
};

/* Does nothing unless $WATCHDOG_USEC asks for it. `notify`: from notify_open(), stays the caller's. */
int watchdog_start(struct watchdog *watchdog, sd_event *event, struct pager *pager, int notify);
void watchdog_stop(struct watchdog *watchdog);
