/* SPDX-License-Identifier: MIT */
/* A broker that is killed: its successor is on the bus under the same name, with what it carries on. */
#include <unistd.h>

#include "tests/integration/bus/support.h"

static struct test_image image;

TEST(restart, the_next_broker_has_the_name_and_the_clients) {
        struct test_broker broker;
        struct test_bus bus;
        uint64_t epoch;
        pb_client *client;
        char path[64];
        sd_bus *us;

        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = 1024 });
        test_bus_start(&bus);
        test_broker_start(&broker,
                          &(struct test_broker_options) {
                                  .supervised = true,
                                  .args = (const char *const[]) { TEST_MEMORY("ram0", &image), bus.option, "--fill=off", NULL },
                          });
        us = test_bus_connect(&bus);
        cr_assert(test_bus_has(us, SERVICE));
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure_and_check(client, &image, 0, 100 * TEST_PAGE);
        cr_assert(find_client(us, path));
        epoch = VM_NUMBER(us, "Epoch");
        cr_assert(is_process(us, broker.served));

        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert(EVENTUALLY(is_process(us, broker.served)));
        cr_assert_neq(VM_NUMBER(us, "Epoch"), epoch);
        cr_assert_eq(VM_NUMBER(us, "PagesPresent"), 100);
        /* It comes back with its next request at the latest. */
        test_ensure_and_check(client, &image, 200 * TEST_PAGE, 50 * TEST_PAGE);
        cr_assert(find_client(us, path));
        cr_assert_eq(get_number(us, path, CLIENT_INTERFACE, "ProcessID"), (uint64_t) getpid());
        cr_assert(EVENTUALLY(VM_NUMBER(us, "PagesPresent") == 150));
        client = test_disconnect(client);
        us = test_bus_disconnect(us);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}

static bool fill_is(sd_bus *us, bool on, uint64_t rate) {
        return VM_NUMBER(us, "Fill") == on && VM_NUMBER(us, "FillRate") == rate;
}

TEST(restart, the_next_broker_fills_as_the_admin_wanted_it) {
        struct test_broker broker;
        struct listener listener;
        struct test_bus bus;
        pb_client *client;
        sd_bus *us;

        test_image_make(&image, &(struct test_image_spec) { .seed = 92, .n_pages = 1024 });
        test_bus_start(&bus);
        test_broker_start(&broker,
                          &(struct test_broker_options) {
                                  .supervised = true,
                                  .args = (const char *const[]) { TEST_MEMORY("ram0", &image), bus.option, "--fill-rate=4K", NULL },
                          });
        us = test_bus_connect(&bus);
        cr_assert(test_bus_has(us, SERVICE));
        cr_assert(fill_is(us, true, 4096));
        (void) sd_bus_message_unref(call(us, "SetFill", "bt", 0, (uint64_t) 12345));
        cr_assert(EVENTUALLY(fill_is(us, false, 12345)));

        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert(EVENTUALLY(is_process(us, broker.served)));
        cr_assert(fill_is(us, false, 12345));

        /* What a client switches is announced and said in the log as well, and the rate stays. */
        listen_for(&listener, us, "PropertiesChanged");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(pb_set_fill(client, true), 0);
        cr_assert(EVENTUALLY(fill_is(us, true, 12345)));
        cr_assert(test_broker_will_log(&broker, "background fill on, at most 12345 bytes/s (asked for by client "));
        cr_assert(test_broker_will_log(&broker, "background fill off, at most 12345 bytes/s (asked for on the bus)"));
        cr_assert(EVENTUALLY(heard(&listener, 1)));
        listen_done(&listener);
        client = test_disconnect(client);
        us = test_bus_disconnect(us);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}

TEST(restart, the_next_broker_serves_though_the_bus_it_was_told_has_gone) {
        struct test_broker broker;
        struct test_bus bus;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 93, .n_pages = 256 });
        test_bus_start(&bus);
        test_broker_start(&broker,
                          &(struct test_broker_options) {
                                  .supervised = true,
                                  .args = (const char *const[]) { TEST_MEMORY("ram0", &image), bus.option, "--fill=off", NULL },
                          });
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure_and_check(client, &image, 0, 10 * TEST_PAGE);
        test_bus_kill(&bus);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        test_ensure_and_check(client, &image, 100 * TEST_PAGE, 10 * TEST_PAGE);
        cr_assert(test_broker_will_log(&broker, "clients are served as before, and nobody sees this broker"));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}
