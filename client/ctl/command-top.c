/* SPDX-License-Identifier: MIT */
/* pagebrokerctl top */
#include <ncurses.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/bus.h"
#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/top-screen.h"
#include "client/ctl/view.h"
#include "common/clock.h"

#define CTRL_L 12

/* A broker that is being restarted is shown as such, with what was last known. */
static void read_next(const struct broker *broker, struct top *top) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        struct view next;

        if (view_try(broker, &next, &error) < 0) {
                top->trouble = "the broker does not answer";
                return;
        }
        view_done(&top->before);
        top->before = top->now;
        top->now = next;
        top->trouble = NULL;
}

/* False: quit. */
static bool take_key(struct top *top, int key) {
        switch (key) {
        case 'f':
                top->order = TOP_BY_FAULTS;
                return true;
        case 'w':
                top->order = TOP_BY_WAITING;
                return true;
        case 'i':
                top->order = TOP_BY_ID;
                return true;
        case CTRL_L:
                (void) clearok(stdscr, TRUE);
                return true;
        default:
                return key != 'q' && key != 'Q';
        }
}

static void run(const struct ctl *ctl, const struct broker *broker, struct top *top) {
        const uint64_t interval_us = (uint64_t) (ctl->interval_s * (double) USEC_PER_SEC);
        uint64_t next_us = clock_now_us() + interval_us;
        int key;

        do {
                uint64_t now = clock_now_us();

                top_draw(top);
                timeout(now < next_us ? (int) ((next_us - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC) : 0);
                key = getch();
                /* By the clock: who holds a key down must not stop what is shown. */
                if (key == ' ' || clock_now_us() >= next_us) {
                        read_next(broker, top);
                        next_us = clock_now_us() + interval_us;
                }
        } while (take_key(top, key));
}

int command_top(const struct ctl *ctl, char **args UNUSED, unsigned n UNUSED) {
        _cleanup_brokers_ struct brokers brokers = {};
        struct top top = { .interval_s = ctl->interval_s };
        const struct broker *broker;
        SCREEN *screen;
        int status;

        if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
                return complain(STATUS_FAILURE, "top needs a terminal; elsewhere: watch, status --json, metrics");
        status = broker_find(ctl, &brokers, &broker);
        if (status == STATUS_OK)
                status = view_read(broker, &top.now);
        if (status != STATUS_OK)
                return status;
        top.name = broker->name;
        screen = newterm(NULL, stdout, stdin);
        if (!screen) {
                view_done(&top.now);
                return complain(STATUS_FAILURE, "this terminal ($TERM) is not known; elsewhere: watch, status --json");
        }
        /* Not raw(): ^Z should go on stopping us. */
        (void) cbreak();
        (void) noecho();
        (void) curs_set(0);
        run(ctl, broker, &top);
        (void) endwin();
        delscreen(screen);
        view_done(&top.now);
        view_done(&top.before);
        return STATUS_OK;
}
