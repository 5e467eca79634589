/* SPDX-License-Identifier: MIT */
/* Who is on the bus can look, and do no harm: neither end the broker, nor make it grow, nor keep faults waiting. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/bus/support.h"

static struct test_image image;

#define PAGES 4096u

static void start(struct scene *scene) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 61, .n_pages = PAGES });
        SCENE_START(scene, TEST_MEMORY("ram0", &image), "--fill=off", "--seccomp=on");
}

static void check_client(struct scene *scene) {
        static uint64_t at;
        pb_client *client = test_connect(&scene->broker, PB_ROLE_DEVICE);

        test_ensure_and_check(client, &image, at, 16 * TEST_PAGE);
        at += 16 * TEST_PAGE;
        client = test_disconnect(client);
}

/* An honest client is served, and the broker answers. */
static void check(struct scene *scene) {
        check_client(scene);
        cr_assert(string_is(scene->us, VM, VM_INTERFACE, "State", "restoring"));
}

/* libsystemd would open files to answer these. */
TEST(hostile, peer_methods_do_not_end_it) {
        struct scene scene;

        start(&scene);
        cr_assert_eq(sd_bus_call_method(scene.us, SERVICE, VM, "org.freedesktop.DBus.Peer", "GetMachineId", NULL, NULL, ""),
                     -EOPNOTSUPP);
        cr_assert_eq(sd_bus_call_method(scene.us, SERVICE, "/", "org.freedesktop.DBus.Peer", "GetMachineId", NULL, NULL, ""),
                     -EOPNOTSUPP);
        cr_assert(sd_bus_call_method(scene.us, SERVICE, VM, "org.freedesktop.DBus.Peer", "Ping", NULL, NULL, "") >= 0);
        check(&scene);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(hostile, calls_that_make_no_sense_are_errors) {
        static const struct {
                const char *path, *interface, *member, *types;
        } calls[] = {
                { VM, VM_INTERFACE, "Nothing", "" },
                { VM, VM_INTERFACE, "GetMap", "" },
                { VM, VM_INTERFACE, "GetMap", "ssss" },
                { VM, "org.freedesktop.DBus.Properties", "Set", "ssv" },
                { VM, "org.freedesktop.DBus.Properties", "Get", "ss" },
                { VM, "org.freedesktop.DBus.Properties", "GetAll", "ssss" },
                { "/", VM_INTERFACE, "Audit", "" },
                { "/org/pagebroker1/client/18446744073709551615", CLIENT_INTERFACE, "Nothing", "" },
        };
        struct scene scene;

        start(&scene);
        for (unsigned i = 0; i < sizeof calls / sizeof calls[0]; i++) {
                sd_bus_message *message = NULL;
                const char *types = calls[i].types;

                cr_assert(sd_bus_message_new_method_call(scene.us, &message, SERVICE, calls[i].path, calls[i].interface,
                                                         calls[i].member) >= 0);
                if (strcmp(types, "ssv") == 0)
                        cr_assert(sd_bus_message_append(message, types, VM_INTERFACE, "FillRate", "t", (uint64_t) 1) >= 0);
                else if (*types)
                        cr_assert(sd_bus_message_append(message, types, "x", "y", "z", "w") >= 0);
                cr_assert(sd_bus_call(scene.us, message, 0, NULL, NULL) < 0, "%s", calls[i].member);
                (void) sd_bus_message_unref(message);
        }
        check(&scene);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(hostile, descriptors_do_not_arrive) {
        sd_bus_message *message = NULL;
        struct scene scene;
        int fd;

        start(&scene);
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        cr_assert(sd_bus_message_new_method_call(scene.us, &message, SERVICE, VM, VM_INTERFACE, "Nothing") >= 0);
        cr_assert(sd_bus_message_append(message, "h", fd) >= 0);
        cr_assert(sd_bus_call(scene.us, message, 0, NULL, NULL) < 0);
        (void) sd_bus_message_unref(message);
        (void) close(fd);
        check(&scene);
        scene_stop(&scene);
        test_image_unlink(&image);
}

/* In a child, until it is killed: everything that is free, as fast as it goes, and no answer is read. */
static int flood(void *arg) {
        static const struct {
                const char *path, *interface, *member, *types;
        } calls[] = {
                { VM, "org.freedesktop.DBus.Properties", "GetAll", "s" },
                { "/org/pagebroker1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "" },
                { VM, VM_INTERFACE, "GetStuck", "tu" },
                { VM, VM_INTERFACE, "GetMap", "uttu" },
                { VM, "org.freedesktop.DBus.Introspectable", "Introspect", "" },
                { VM, VM_INTERFACE, "Audit", "" },
        };
        sd_bus *us = child_bus_connect(arg);

        CHILD_CHECK(us);
        for (unsigned i = 0;; i++) {
                unsigned which = i % (sizeof calls / sizeof calls[0]);
                sd_bus_message *message = NULL;
                uint64_t queued = 0;
                int r = sd_bus_message_new_method_call(us, &message, SERVICE, calls[which].path, calls[which].interface,
                                                       calls[which].member);

                if (r >= 0 && which == 0)
                        r = sd_bus_message_append(message, "s", VM_INTERFACE);
                else if (r >= 0 && which == 2)
                        r = sd_bus_message_append(message, "tu", (uint64_t) 0, (uint32_t) 0);
                else if (r >= 0 && which == 3)
                        r = sd_bus_message_append(message, "uttu", (uint32_t) 0, (uint64_t) 0, (uint64_t) 0, (uint32_t) 4096);
                if (r >= 0)
                        r = sd_bus_send(us, message, NULL);
                (void) sd_bus_message_unref(message);
                CHILD_CHECK(r >= 0);
                while (sd_bus_get_n_queued_write(us, &queued) >= 0 && queued > 16)
                        (void) sd_bus_flush(us);
        }
}

TEST(hostile, a_flood_of_calls_keeps_nobody_from_his_pages) {
        struct scene scene;
        pb_client *client;
        pid_t pids[2];
        long before;

        require_other_uid();
        if (TEST_SANITIZED)
                cr_skip_test("under a sanitizer the bus itself is flooded");
        start(&scene);
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        check(&scene);
        before = test_broker_rss_kib(&scene.broker);
        for (unsigned i = 0; i < 2; i++)
                pids[i] = test_child_start(TEST_OTHER_UID, flood, &scene.bus);
        for (uint64_t page = 1024; page < PAGES; page++)
                test_ensure_and_check(client, &image, page * TEST_PAGE, TEST_PAGE);
        /* A new client gets in beside them, too. The bus itself may be silent now: dbus-daemon takes nothing more from us
         * while others do not read what we answered them. */
        check_client(&scene);
        cr_assert_lt(test_broker_rss_kib(&scene.broker) - before, 64 * 1024, "it keeps what it is asked");
        for (unsigned i = 0; i < 2; i++) {
                (void) kill(pids[i], SIGKILL);
                (void) test_child_wait(pids[i]);
        }
        client = test_disconnect(client);
        check(&scene);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(hostile, a_large_message_is_not_kept) {
        enum { SIZE = 16 << 20 };
        struct scene scene;
        long before;
        char *text;

        start(&scene);
        check(&scene);
        before = test_broker_rss_kib(&scene.broker);
        text = malloc(SIZE + 1);
        cr_assert_not_null(text);
        memset(text, 'x', SIZE);
        text[SIZE] = 0;
        for (unsigned i = 0; i < 8; i++)
                cr_assert(sd_bus_call_method(scene.us, SERVICE, VM, "org.freedesktop.DBus.Properties", "GetAll", NULL, NULL, "s",
                                             text) < 0);
        free(text);
        check(&scene);
        cr_assert(TEST_SANITIZED || test_broker_rss_kib(&scene.broker) - before < 64 * 1024);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(hostile, the_bus_may_go_away) {
        struct scene scene;
        pb_client *client;

        start(&scene);
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        test_bus_kill(&scene.bus);
        cr_assert(test_broker_will_log(&scene.broker, "the bus has gone"));
        test_ensure_and_check(client, &image, 0, 1024 * TEST_PAGE);
        client = test_disconnect(client);
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        client = test_disconnect(client);
        scene.us = sd_bus_close_unref(scene.us);
        /* One descriptor fewer than when it was ready. */
        test_broker_stop(&scene.broker);
        test_bus_stop(&scene.bus);
        test_image_unlink(&image);
}

TEST(hostile, a_bus_that_hangs_holds_up_neither_clients_nor_the_end) {
        struct scene scene;
        pb_client *client;

        start(&scene);
        cr_assert(kill(scene.bus.pid, SIGSTOP) == 0);
        for (unsigned i = 0; i < 100; i++) {
                client = test_connect(&scene.broker, PB_ROLE_DEVICE);
                test_ensure_and_check(client, &image, i * 8 * TEST_PAGE, 8 * TEST_PAGE);
                client = test_disconnect(client);
        }
        test_broker_stop(&scene.broker);
        scene.us = sd_bus_close_unref(scene.us);
        (void) kill(scene.bus.pid, SIGCONT);
        test_bus_stop(&scene.bus);
        test_image_unlink(&image);
}
