/* SPDX-License-Identifier: MIT */
/* pagebrokerctl finds brokers on a bus, picks one, and says what to do where it cannot. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "tests/integration/ctl/support.h"

TEST(find, nobody_runs_says_how_to_start_one) {
        struct test_bus bus;

        test_bus_start(&bus);
        CTL_ENDS(3, bus.option, "status");
        cr_assert(strstr(ctl_err, "no broker is running"), "%s", ctl_err);
        cr_assert(strstr(ctl_err, "systemctl start pagebroker@web1"), "%s", ctl_err);
        cr_assert(strstr(ctl_err, "pagebrokerd --name=web1"), "%s", ctl_err);
        CTL_ENDS(3, bus.option, "list");
        test_bus_stop(&bus);
}

TEST(find, a_bus_that_is_not_there_is_named) {
        CTL_ENDS(1, "--bus=unix:path=/nonexistent/bus", "status");
        cr_assert(strstr(ctl_err, "unix:path=/nonexistent/bus cannot be reached"), "%s", ctl_err);
}

TEST(find, the_only_broker_is_taken) {
        struct test_bus bus;
        json_object *status;
        pid_t fake;

        test_bus_start(&bus);
        fake = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        CTL_ENDS(0, bus.option, "status", "--json");
        status = ctl_json();
        cr_assert_str_eq(ctl_text(status, "name"), "web1");
        (void) json_object_put(status);
        fake_stop(fake);
        test_bus_stop(&bus);
}

static void use_buses(const char *system, const char *session) {
        cr_assert(setenv("DBUS_SYSTEM_BUS_ADDRESS", system, 1) == 0);
        cr_assert(setenv("DBUS_SESSION_BUS_ADDRESS", session, 1) == 0);
}

static void expect_machine(const char *name) {
        json_object *status;

        CTL_ENDS(0, "status", "--json");
        status = ctl_json();
        cr_assert_str_eq(ctl_text(status, "name"), name);
        (void) json_object_put(status);
}

TEST(find, the_users_own_bus_is_looked_at_where_the_system_has_none) {
        static const char nowhere[] = "unix:path=/nonexistent/bus";
        struct test_bus system, session;
        pid_t fakes[2];

        test_bus_start(&system);
        test_bus_start(&session);
        fakes[0] = fake_start(&session, "org.pagebroker1.own", FAKE_FINE, -1);
        use_buses(system.address, session.address);
        expect_machine("own");
        use_buses(nowhere, session.address);
        expect_machine("own");
        fakes[1] = fake_start(&system, "org.pagebroker1.web1", FAKE_FINE, -1);
        use_buses(system.address, session.address);
        expect_machine("web1");
        use_buses(system.address, nowhere);
        expect_machine("web1");
        CTL_ENDS(1, "--bus=session", "status");
        use_buses(nowhere, nowhere);
        CTL_ENDS(3, "status");
        cr_assert(strstr(ctl_err, "the system bus cannot be reached"), "%s", ctl_err);
        cr_assert(strstr(ctl_err, "--socket=PATH"), "%s", ctl_err);
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&system);
        test_bus_stop(&session);
}

TEST(find, of_several_one_has_to_be_named) {
        struct test_bus bus;
        json_object *status;
        pid_t fakes[2];

        test_bus_start(&bus);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1.db_2d2", FAKE_FINE, -1); /* as sd_bus_path_encode() has it */
        CTL_ENDS(3, bus.option, "stuck");
        cr_assert(strstr(ctl_err, "2 brokers are running; name one of them by -m: db-2, web1"), "%s", ctl_err);
        CTL_ENDS(0, bus.option, "-m", "web1", "status", "--json");
        status = ctl_json();
        cr_assert_str_eq(ctl_text(status, "name"), "web1");
        (void) json_object_put(status);
        CTL_ENDS(0, bus.option, "status", "db-2", "--json");
        CTL_ENDS(3, bus.option, "status", "mail");
        cr_assert(strstr(ctl_err, "is called mail; there is: db-2, web1"), "%s", ctl_err);
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

TEST(find, a_name_that_is_no_machines_is_passed_over) {
        struct test_bus bus;
        pid_t fakes[2];

        test_bus_start(&bus);
        fakes[0] = fake_start(&bus, "org.pagebroker1", FAKE_FINE, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1._1b_5b2J", FAKE_FINE, -1); /* an escape sequence */
        CTL_ENDS(3, bus.option, "list");
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

TEST(find, list_shows_all_of_them_with_their_state) {
        struct test_bus bus;
        pid_t fakes[2];

        test_bus_start(&bus);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1.web2", FAKE_REFUSING, -1);
        CTL_ENDS(0, bus.option, "list");
        cr_assert(strstr(ctl_out, "web1  degraded         16.0 MiB   25.0 %        2  4711  9.8.7\n"), "%s", ctl_out);
        cr_assert(strstr(ctl_out, "web2  does not answer"), "%s", ctl_out);
        CTL_ENDS(0, bus.option, "list", "--json");
        cr_assert(strstr(ctl_out, "\"name\": \"web1\"") && strstr(ctl_out, "\"pages_present\": 1024"), "%s", ctl_out);
        cr_assert(strstr(ctl_out, "\"name\": \"web2\", \"error\": \"Not for you\""), "%s", ctl_out);
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

/* Each of them answers only when all have been asked. */
TEST(find, all_are_asked_at_once) {
        struct test_bus bus;
        pid_t fakes[3];

        test_bus_start(&bus);
        fake_meet(2);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web1", FAKE_LAST, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1.web2", FAKE_SILENT, -1);
        fakes[2] = fake_start(&bus, "org.pagebroker1.web3", FAKE_LAST, -1);
        CTL_ENDS(0, bus.option, "list");
        cr_assert(strstr(ctl_out, "web1  degraded"), "%s", ctl_out);
        cr_assert(strstr(ctl_out, "web2  does not answer"), "%s", ctl_out);
        cr_assert(strstr(ctl_out, "web3  degraded"), "%s", ctl_out);
        for (unsigned i = 0; i < 3; i++)
                fake_stop(fakes[i]);
        test_bus_stop(&bus);
}

static int wait_for_web1(void *arg) {
        const char *option = arg;
        const char *const argv[] = { ctl_program, option, "--timeout=60", "wait", "web1", NULL };

        (void) execv(argv[0], (char *const *) argv);
        return 121;
}

static bool is_asleep(pid_t pid) {
        return test_thread_syscall(pid, pid) == SYS_ppoll || test_thread_syscall(pid, pid) == SYS_poll;
}

TEST(find, wait_returns_when_the_broker_comes_to_the_bus) {
        struct test_bus bus;
        pid_t waiter, fakes[2];

        test_bus_start(&bus);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web2", FAKE_FINE, -1);
        waiter = test_child_start((uid_t) -1, wait_for_web1, bus.option);
        cr_assert(EVENTUALLY(is_asleep(waiter)), "it does not wait");
        fakes[1] = fake_start(&bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        cr_assert_eq(test_child_wait(waiter), 0);
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

TEST(find, wait_gives_up_where_none_comes) {
        struct test_bus bus;

        test_bus_start(&bus);
        CTL_ENDS(3, bus.option, "--timeout=0", "wait", "web1");
        cr_assert(strstr(ctl_err, "no broker of web1 has come to this bus after 0 seconds"), "%s", ctl_err);
        test_bus_stop(&bus);
}

TEST(find, what_does_not_go_together_is_refused) {
        CTL_ENDS(2, "--socket=/nonexistent", "stuck");
        cr_assert(strstr(ctl_err, "stuck needs a bus"), "%s", ctl_err);
        CTL_ENDS(2, "--socket=/nonexistent", "-m", "web1", "status");
        CTL_ENDS(2, "--svg=/tmp/x", "status");
        cr_assert(strstr(ctl_err, "--svg does not go with status"), "%s", ctl_err);
        CTL_ENDS(2, "status", "web1", "web2");
        CTL_ENDS(2, "-m", "web1", "status", "web2");
        CTL_ENDS(2, "disconnect");
        CTL_ENDS(2, "prefetch", "0");
        CTL_ENDS(2, "prefetch", "0x1000", "much");
        CTL_ENDS(2, "heal", "0xfffffffffffff000", "8192");
        CTL_ENDS(2, "fill", "rate");
        CTL_ENDS(2, "--color=pink", "map");
}
