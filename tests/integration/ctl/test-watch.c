/* SPDX-License-Identifier: MIT */
/* pagebrokerctl watch on a bus: events as they come, and a broker that goes and comes back. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/integration/ctl/support.h"

struct watch {
        struct test_bus bus;
        pid_t fake, pid;
        FILE *out;
        char line[4096];
};

static void begin(struct watch *watch, const char *more) {
        int fds[2];

        test_bus_start(&watch->bus);
        watch->fake = fake_start(&watch->bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        cr_assert(pipe2(fds, O_CLOEXEC) == 0);
        watch->pid = ctl_start(fds[1], (const char *const[]) { watch->bus.option, "watch", more, NULL });
        (void) close(fds[1]);
        watch->out = fdopen(fds[0], "re");
        cr_assert(watch->out != NULL);
}

static void end(struct watch *watch) {
        (void) fclose(watch->out);
        fake_stop(watch->fake);
        test_bus_stop(&watch->bus);
}

/* The next line that is no counters'. */
static const char *next_event(struct watch *watch) {
        do
                cr_assert(fgets(watch->line, sizeof watch->line, watch->out), "it has ended");
        while (strstr(watch->line, " of the data, ") || strstr(watch->line, "pages_total"));
        return watch->line;
}

static void expect_line(struct watch *watch, const char *expected) {
        cr_assert_str_eq(next_event(watch), expected);
}

TEST(watch, tells_people_what_happens) {
        struct watch watch;

        begin(&watch, "--interval=100");
        cr_assert(fgets(watch.line, sizeof watch.line, watch.out));
        cr_assert_str_eq(watch.line,
                         " 25.0 % of the data,  25.0 % of the memory, 22 faults by peers, 11 by linked clients, "
                         "3 pages poisoned, fill on\n");
        expect_line(&watch, "client 13 has come: tape, device, process 102, user 1001\n");
        expect_line(&watch, "client 13 has left: tape\n");
        expect_line(&watch, "1 page of ram0 from page 99 on cannot be had from file:/srv/web1: Input/output error "
                            "(7 such messages before it not shown)\n");
        expect_line(&watch,
                    "the source of ram0 is lost, absent pages cannot be had: file:/srv/web1: its size has changed\n");
        expect_line(&watch, "everything is here\n");
        /* After which it looks again before the interval is over. */
        cr_assert(fgets(watch.line, sizeof watch.line, watch.out));
        cr_assert(strstr(watch.line, "122 faults by peers"), "%s", watch.line);
        cr_assert(kill(watch.pid, SIGTERM) == 0);
        cr_assert_eq(test_child_wait(watch.pid), 128 + SIGTERM);
        end(&watch);
}

TEST(watch, tells_programs_what_happens) {
        struct watch watch;

        begin(&watch, "--json");
        expect_line(&watch,
                    "{ \"event\": \"client_connected\", \"client\": 13, \"name\": \"tape\", \"role\": \"device\", "
                    "\"pid\": 102, \"uid\": 1001 }\n");
        expect_line(&watch, "{ \"event\": \"client_disconnected\", \"client\": 13, \"name\": \"tape\" }\n");
        expect_line(&watch,
                    "{ \"event\": \"page_error\", \"memory\": \"ram0\", \"page\": 99, \"n_pages\": 1, \"source\": "
                    "\"file:/srv/web1\", \"reason\": \"Input/output error\", \"left_out\": 7 }\n");
        cr_assert(kill(watch.pid, SIGTERM) == 0);
        cr_assert_eq(test_child_wait(watch.pid), 128 + SIGTERM);
        end(&watch);
}

TEST(watch, stays_while_the_broker_is_restarted) {
        struct watch watch;

        begin(&watch, "--interval=0.01");
        while (strcmp(next_event(&watch), "everything is here\n") != 0)
                ;
        fake_stop(watch.fake);
        expect_line(&watch, "the broker of web1 has gone\n");
        watch.fake = fake_start(&watch.bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        expect_line(&watch, "the broker of web1 is back\n");
        expect_line(&watch, "client 13 has come: tape, device, process 102, user 1001\n");
        cr_assert(kill(watch.pid, SIGTERM) == 0);
        cr_assert_eq(test_child_wait(watch.pid), 128 + SIGTERM);
        end(&watch);
}

TEST(watch, ends_when_the_broker_does_not_come_back) {
        struct test_bus bus;
        pid_t fake, pid;
        int fds[2];
        char byte;

        test_bus_start(&bus);
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        cr_assert(pipe2(fds, O_CLOEXEC) == 0);
        pid = ctl_start(fds[1],
                        (const char *const[]) { bus.option, "--interval=0.01", "--timeout=0.01", "watch", NULL });
        (void) close(fds[1]);
        cr_assert_eq(read(fds[0], &byte, 1), 1);
        fake_stop(fake);
        while (read(fds[0], &byte, 1) == 1)
                ;
        (void) close(fds[0]);
        cr_assert_eq(test_child_wait(pid), 3);
        test_bus_stop(&bus);
}
