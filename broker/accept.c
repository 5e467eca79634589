/* SPDX-License-Identifier: MIT */
/* Knocks at the listening sockets, on the control thread. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/account.h"
#include "broker/broker.h"
#include "broker/closer.h"
#include "broker/connection.h"
#include "common/clock.h"
#include "common/cleanup.h"
#include "common/log.h"

/* #syscalls:broker accept4 close fcntl:cmd=F_DUPFD_CLOEXEC */

#define ACCEPT_PAUSE_US (100 * USEC_PER_MSEC)

/* Out of descriptors: who knocks is let in and sent away through the one that was kept for this. Left knocking, he
 * would keep this thread spinning on a socket that stays readable. */
static void turn_away(struct broker *broker, int listener) {
        static struct log_limit limit = { .interval_us = 10 * USEC_PER_SEC, .burst = 1 };
        uint32_t suppressed;

        if (log_limit_pass(&limit, &suppressed))
                log_error("no descriptor left for another client (RLIMIT_NOFILE); connections are refused");
        /* What is closed aside may not be closed yet when the spare is wanted back: then with the next one. */
        broker->spare_fd = fd_close(broker->spare_fd);
        closer_close(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), ACCOUNT_STRANGERS);
        broker->spare_fd = fcntl(broker->eventfd, F_DUPFD_CLOEXEC, 3);
}

static void listen_to_all(struct broker *broker, int enabled) {
        for (unsigned i = 0; i < broker->n_accepting; i++)
                (void) sd_event_source_set_enabled(broker->accepting[i], enabled);
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *data) {
        struct broker *broker = data;

        listen_to_all(broker, SD_EVENT_ON);
        return 0;
}

/* Sockets of people who are sent away must be closed, and their close() may hang too: beyond a number of those nobody is
 * let in for a moment. Who is connected is not concerned. */
static void pause_accepting(struct broker *broker) {
        static struct log_limit limit = { .interval_us = 10 * USEC_PER_SEC, .burst = 1 };
        uint32_t suppressed;

        if (log_limit_pass(&limit, &suppressed))
                log_error("%u descriptors of clients hang in close(); nobody new is let in until some do not",
                          account_total(ACCOUNT_CLOSES));
        listen_to_all(broker, SD_EVENT_OFF);
        broker->accept_again = sd_event_source_disable_unref(broker->accept_again);
        if (sd_event_add_time_relative(broker->event, &broker->accept_again, CLOCK_MONOTONIC, ACCEPT_PAUSE_US, 0,
                                       on_pause_over, broker) < 0)
                listen_to_all(broker, SD_EVENT_ON);
}

static int on_connect(sd_event_source *source, int fd, uint32_t events, void *data) {
        int client;

        if (closer_is_full()) {
                pause_accepting(data);
                return 0;
        }
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client >= 0)
                (void) connection_new(data, client);
        else if (errno == EMFILE || errno == ENFILE)
                turn_away(data, fd);
        return 0;
}

int broker_accept(struct broker *broker, int listener) {
        int r = sd_event_add_io(broker->event, &broker->accepting[broker->n_accepting], listener, EPOLLIN, on_connect,
                                broker);

        if (r >= 0)
                broker->n_accepting++;
        return r;
}
