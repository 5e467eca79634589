/* SPDX-License-Identifier: MIT */
#include "tests/lib/bus.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/janitor.h"
#include "tests/lib/process.h"
#include "tests/lib/require.h"

/* As /usr/share/dbus-1/system.conf has it, but for the address and the user. */
static const char config[] =
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n"
        " \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
        "<busconfig>\n"
        "  <type>system</type>\n"
        "  <listen>%s</listen>\n"
        "  <auth>EXTERNAL</auth>\n"
        "  <policy context=\"default\">\n"
        "    <allow user=\"*\"/>\n"
        "    <deny own=\"*\"/>\n"
        "    <deny send_type=\"method_call\"/>\n"
        "    <allow send_type=\"signal\"/>\n"
        "    <allow send_requested_reply=\"true\" send_type=\"method_return\"/>\n"
        "    <allow send_requested_reply=\"true\" send_type=\"error\"/>\n"
        "    <allow receive_type=\"method_call\"/>\n"
        "    <allow receive_type=\"method_return\"/>\n"
        "    <allow receive_type=\"error\"/>\n"
        "    <allow receive_type=\"signal\"/>\n"
        "    <allow send_destination=\"org.freedesktop.DBus\" send_interface=\"org.freedesktop.DBus\"/>\n"
        "  </policy>\n"
        "  <include>" TEST_SOURCE_ROOT "/broker/bus/org.pagebroker1.conf</include>\n"
        "</busconfig>\n";

static void write_config(const struct test_bus *bus, const char *path) {
        FILE *file = fopen(path, "we");

        cr_assert(file && fprintf(file, config, bus->address) > 0 && fclose(file) == 0);
}

void test_bus_start(struct test_bus *ret) {
        char path[96], option[128], ready[32];
        pid_t parent = getpid();
        int pipe_fds[2];

        require_program("dbus-daemon");
        *ret = (struct test_bus) {};
        (void) snprintf(ret->dir, sizeof ret->dir, "%s/bus-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(ret->dir) && chmod(ret->dir, 0755) == 0);
        (void) snprintf(ret->address, sizeof ret->address, "unix:path=%s/bus", ret->dir);
        (void) snprintf(ret->option, sizeof ret->option, "--bus=%s", ret->address);
        (void) snprintf(path, sizeof path, "%s/config", ret->dir);
        write_config(ret, path);
        (void) snprintf(option, sizeof option, "--config-file=%s", path);
        cr_assert(pipe(pipe_fds) == 0);
        test_janitor_start();
        ret->pid = fork();
        cr_assert(ret->pid >= 0);
        if (ret->pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent || dup2(pipe_fds[1], 3) < 0)
                        _exit(126);
                (void) execlp("dbus-daemon", "dbus-daemon", option, "--nofork", "--nopidfile", "--print-address=3",
                              (char *) NULL);
                _exit(127);
        }
        test_janitor_watch(ret->pid);
        (void) close(pipe_fds[1]);
        cr_assert(read(pipe_fds[0], ready, sizeof ready) > 0, "dbus-daemon does not start");
        (void) close(pipe_fds[0]);
}

void test_bus_kill(struct test_bus *bus) {
        if (!bus->pid)
                return;
        (void) kill(bus->pid, SIGKILL);
        (void) waitpid(bus->pid, NULL, 0);
        bus->pid = 0;
}

void test_bus_stop(struct test_bus *bus) {
        static const char *const files[] = { "bus", "config" };

        test_bus_kill(bus);
        for (unsigned i = 0; i < sizeof files / sizeof files[0]; i++) {
                char path[96];

                (void) snprintf(path, sizeof path, "%s/%s", bus->dir, files[i]);
                (void) unlink(path);
        }
        (void) rmdir(bus->dir);
}

sd_bus *child_bus_connect(const struct test_bus *bus) {
        sd_bus *connection = NULL;
        int r = sd_bus_new(&connection);

        if (r >= 0)
                r = sd_bus_set_address(connection, bus->address);
        if (r >= 0)
                r = sd_bus_set_bus_client(connection, true);
        if (r >= 0)
                r = sd_bus_start(connection);
        if (r < 0) {
                fprintf(stderr, "%s: %s\n", bus->address, strerror(-r));
                return sd_bus_unref(connection);
        }
        return connection;
}

sd_bus *test_bus_connect(const struct test_bus *bus) {
        sd_bus *connection = child_bus_connect(bus);

        cr_assert_not_null(connection);
        return connection;
}

sd_bus *test_bus_disconnect(sd_bus *connection) {
        return sd_bus_flush_close_unref(connection);
}

static bool name_has_owner(sd_bus *connection, const char *name) {
        sd_bus_message *reply = NULL;
        int has = 0, r = sd_bus_call_method(connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                            "NameHasOwner", NULL, &reply, "s", name);

        if (r >= 0)
                r = sd_bus_message_read(reply, "b", &has);
        (void) sd_bus_message_unref(reply);
        return r >= 0 && has;
}

bool test_bus_has(sd_bus *connection, const char *name) {
        return EVENTUALLY(name_has_owner(connection, name));
}
