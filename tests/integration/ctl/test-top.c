/* SPDX-License-Identifier: MIT */
/* pagebrokerctl top in a terminal. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utmp.h>

#include "common/cleanup.h"
#include "tests/integration/ctl/support.h"

struct terminal {
        int fd;
        pid_t pid;
        size_t n;
        char text[262144]; /* all that was drawn, without escape sequences */
};

struct program {
        int slave;
        const char *option;
        const char *term;
};

static int exec_top(void *arg) {
        const struct program *program = arg;
        const char *const argv[] = { ctl_program, program->option, "--interval=0.01", "top", NULL };

        if (login_tty(program->slave) < 0 || setenv("TERM", program->term, 1) < 0)
                return 120;
        (void) execv(argv[0], (char *const *) argv);
        return 121;
}

static void terminal_start(struct terminal *terminal, const char *option, const char *term) {
        const struct winsize size = { .ws_row = 30, .ws_col = 120 };
        struct program program = { .option = option, .term = term };

        cr_assert(openpty(&terminal->fd, &program.slave, NULL, NULL, &size) == 0);
        cr_assert(fcntl(terminal->fd, F_SETFD, FD_CLOEXEC) == 0);
        terminal->pid = test_child_start((uid_t) -1, exec_top, &program);
        terminal->n = 0;
        (void) close(program.slave);
}

/* Escape sequences of this kind of terminal end with a letter; a movement counts as a blank. */
static void take(struct terminal *terminal, const char *bytes, ssize_t n) {
        static bool is_escape;

        for (ssize_t i = 0; i < n && terminal->n + 1 < sizeof terminal->text; i++)
                if (bytes[i] == '\033') {
                        terminal->text[terminal->n++] = ' ';
                        is_escape = true;
                } else if (is_escape)
                        is_escape = !((bytes[i] >= 'A' && bytes[i] <= 'Z') || (bytes[i] >= 'a' && bytes[i] <= 'z'));
                else
                        terminal->text[terminal->n++] = bytes[i];
        terminal->text[terminal->n] = 0;
}

static bool terminal_read(struct terminal *terminal) {
        char bytes[4096];
        ssize_t n;

        if (poll(&(struct pollfd) { .fd = terminal->fd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) != 1)
                return false;
        n = read(terminal->fd, bytes, sizeof bytes);
        take(terminal, bytes, n > 0 ? n : 0);
        return n > 0;
}

static void terminal_expect(struct terminal *terminal, const char *text) {
        while (!strstr(terminal->text, text))
                cr_assert(terminal_read(terminal), "'%s' does not come:\n%s", text, terminal->text);
}

/* Whoever draws must be read, or it does not end. */
static int terminal_end(struct terminal *terminal) {
        while (terminal_read(terminal))
                ;
        (void) close(terminal->fd);
        return test_child_wait(terminal->pid);
}

static struct terminal terminal;

TEST(top, shows_the_machine_and_its_clients) {
        struct test_bus bus;
        pid_t fake;

        test_bus_start(&bus);
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        terminal_start(&terminal, bus.option, "xterm");
        terminal_expect(&terminal, "web1: degraded");
        terminal_expect(&terminal, "25.0 % of 16.0 MiB");
        terminal_expect(&terminal, "2 in flight, 3 poisoned");
        terminal_expect(&terminal, "4 waits: p50 20 us, p99 3.0 ms, max 2.5 ms");
        terminal_expect(&terminal, "q\"e\\mu?[31m");
        terminal_expect(&terminal, "for page 1234 of ram0");
        terminal_expect(&terminal, "12 disk");
        cr_assert_eq(write(terminal.fd, "q", 1), 1);
        cr_assert_eq(terminal_end(&terminal), 0);
        fake_stop(fake);
        test_bus_stop(&bus);
}

/* ^L has all of it drawn anew; otherwise only the digits that changed come. */
static unsigned redraw_and_read_faults(void) {
        unsigned faults;

        terminal.n = 0;
        terminal.text[0] = 0;
        cr_assert_eq(write(terminal.fd, "\f", 1), 1);
        terminal_expect(&terminal, "every 0.01 s");
        cr_assert_eq(sscanf(strstr(terminal.text, " vmm ") + 5, "%*u %*f %u", &faults), 1, "%s", terminal.text);
        return faults;
}

/* The fake broker counts 100 more faults of client 7 at each look. */
TEST(top, follows_what_changes) {
        struct test_bus bus;
        pid_t fake;

        test_bus_start(&bus);
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        terminal_start(&terminal, bus.option, "xterm");
        terminal_expect(&terminal, "every 0.01 s");
        cr_assert(EVENTUALLY(redraw_and_read_faults() > 322));
        cr_assert_eq(write(terminal.fd, "wifq", 4), 4);
        cr_assert_eq(terminal_end(&terminal), 0);
        fake_stop(fake);
        test_bus_stop(&bus);
}

TEST(top, outlives_the_broker_and_says_so) {
        struct test_bus bus;
        pid_t fake;

        test_bus_start(&bus);
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        terminal_start(&terminal, bus.option, "xterm");
        terminal_expect(&terminal, "web1: degraded");
        fake_stop(fake);
        terminal_expect(&terminal, "the broker does not answer");
        terminal.n = 0;
        terminal.text[0] = 0;
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        terminal_expect(&terminal, "degraded");
        cr_assert_eq(write(terminal.fd, "q", 1), 1);
        cr_assert_eq(terminal_end(&terminal), 0);
        fake_stop(fake);
        test_bus_stop(&bus);
}

TEST(top, needs_a_terminal) {
        CTL_ENDS(1, "top");
        cr_assert(strstr(ctl_err, "top needs a terminal"), "%s", ctl_err);
}
