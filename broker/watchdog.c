/* SPDX-License-Identifier: MIT */
#include "broker/watchdog.h"

#include <systemd/sd-daemon.h>

#include "broker/events.h"
#include "broker/notify.h"
#include "broker/pager.h"
#include "common/clock.h"
#include "common/log.h"

/* sd_watchdog_enabled(3) says half of the time; a quarter, because what is fed at one look was asked for at the one
 * before: two looks and the time they take must fit in. */
#define LOOKS_PER_TIMEOUT 4

static void say_it_moves(struct watchdog *watchdog, uint64_t now_us) {
        if (watchdog->stuck_us)
                log_notice("the pager goes on, after %llu ms at least",
                           (unsigned long long) ((now_us - watchdog->stuck_us) / USEC_PER_MSEC));
        watchdog->stuck_us = 0;
        notify_send(watchdog->notify, "WATCHDOG=1");
}

static void say_it_is_stuck(struct watchdog *watchdog, uint64_t now_us) {
        if (watchdog->stuck_us)
                return;
        watchdog->stuck_us = now_us;
        log_event(LOG_ERR, (.id = EVENT_PAGER_STUCK),
                  "the pager makes no progress: the watchdog is not fed, and the supervisor will end this broker");
}

/* The pager does not count by itself while it has nothing to do, or waits for sources: it is asked to turn once, and
 * looked at the next time. A pager that sleeps and cannot be woken is found as well as one that hangs. */
static int on_look(sd_event_source *source, uint64_t usec, void *data) {
        struct watchdog *watchdog = data;
        uint64_t turns = pager_turns(watchdog->pager), now_us = clock_now_us();

        if (turns != watchdog->turns)
                say_it_moves(watchdog, now_us);
        else
                say_it_is_stuck(watchdog, now_us);
        watchdog->turns = turns;
        pager_poke(watchdog->pager);
        (void) sd_event_source_set_time_relative(source, watchdog->period_us);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int watchdog_start(struct watchdog *watchdog, sd_event *event, struct pager *pager, int notify) {
        uint64_t timeout_us = 0;

        if (notify < 0 || sd_watchdog_enabled(0, &timeout_us) <= 0)
                return 0;
        *watchdog = (struct watchdog) {
                .pager = pager,
                .notify = notify,
                .period_us = timeout_us / LOOKS_PER_TIMEOUT,
                .turns = pager_turns(pager),
        };
        pager_poke(pager);
        return sd_event_add_time_relative(event, &watchdog->timer, CLOCK_MONOTONIC, watchdog->period_us, 0, on_look,
                                          watchdog);
}

void watchdog_stop(struct watchdog *watchdog) {
        watchdog->timer = sd_event_source_disable_unref(watchdog->timer);
}
