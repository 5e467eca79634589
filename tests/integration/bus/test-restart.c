/* SPDX-License-Identifier: MIT */
/* A broker that is killed: its successor is on the bus under the same name, with what it carries on. */
#include <unistd.h>

#include "tests/integration/bus/support.h"

static struct test_image image;

/* The bus may not have seen yet that the old one has gone. */
static bool is_process(sd_bus *us, pid_t pid) {
        uint32_t is = 0;

        return sd_bus_get_property_trivial(us, SERVICE, VM, VM_INTERFACE, "ProcessID", NULL, 'u', &is) >= 0 &&
               is == (uint32_t) pid;
}

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
