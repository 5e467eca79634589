/* SPDX-License-Identifier: MIT */
/* Methods that change something do it, and only for those who may. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/bus/support.h"
#include "tests/lib/gate.h"

static struct test_image image, image1;

#define PAGES 1024u

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 41, .n_pages = PAGES });
}

static void call_and_forget(sd_bus_message *reply) {
        (void) sd_bus_message_unref(reply);
}

TEST(act, a_prefetch_brings_exactly_its_pages) {
        struct scene scene;

        make_image();
        test_image_make(&image1, &(struct test_image_spec) { .seed = 42, .n_pages = 512 });
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), TEST_MEMORY("ram1", &image1), "--fill=off");
        call_and_forget(call(scene.us, "Prefetch", "utt", (uint32_t) 0, (uint64_t) 10, (uint64_t) 500));
        cr_assert(EVENTUALLY(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "PagesPresent") == 500));
        cr_assert_eq(get_number(scene.us, "/org/pagebroker1/source/1", SOURCE_INTERFACE, "PagesPresent"), 0);
        /* ram1 begins where ram0 ends: two pages of each. */
        call_and_forget(call(scene.us, "PrefetchGuest", "tt", (uint64_t) (PAGES - 2) * TEST_PAGE, (uint64_t) 4 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "PagesPresent") == 502));
        cr_assert(EVENTUALLY(get_number(scene.us, "/org/pagebroker1/source/1", SOURCE_INTERFACE, "PagesPresent") == 2));
        scene_stop(&scene);
        test_image_unlink(&image);
        test_image_unlink(&image1);
}

TEST(act, ranges_that_are_none_are_refused) {
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "Prefetch", "utt", (uint32_t) 1, (uint64_t) 0,
                             (uint64_t) 1));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "Prefetch", "utt", (uint32_t) 0, (uint64_t) 1,
                             (uint64_t) PAGES));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "Prefetch", "utt", (uint32_t) 0, UINT64_MAX,
                             (uint64_t) 2));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "PrefetchGuest", "tt", UINT64_MAX, (uint64_t) 2));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "PrefetchGuest", "tt", (uint64_t) 1 << 40,
                             (uint64_t) 4096));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "GetMap", "uttu", UINT32_MAX, (uint64_t) 0,
                             (uint64_t) 0, (uint32_t) 1));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "GetMap", "uttu", (uint32_t) 0, (uint64_t) PAGES,
                             (uint64_t) 0, (uint32_t) 1));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "GetMap", "uttu", (uint32_t) 0, (uint64_t) 0,
                             (uint64_t) 0, (uint32_t) 0));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "GetMap", "uttu", (uint32_t) 0, (uint64_t) 0,
                             (uint64_t) 0, UINT32_MAX));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "Heal", "utt", (uint32_t) 7, (uint64_t) 0,
                             (uint64_t) 0));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.BadRange", "Heal", "utt", (uint32_t) 0, (uint64_t) 0,
                             UINT64_MAX));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchClient", "DisconnectClient", "t", (uint64_t) 99));
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(act, no_more_than_sixteen_prefetches_at_once) {
        struct test_gate gate;
        struct scene scene;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 0, PAGES * TEST_PAGE);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off");
        for (unsigned i = 0; i < 16; i++)
                call_and_forget(call(scene.us, "Prefetch", "utt", (uint32_t) 0, (uint64_t) i * 64, (uint64_t) 1));
        cr_assert(call_fails(scene.us, SD_BUS_ERROR_LIMITS_EXCEEDED, "Prefetch", "utt", (uint32_t) 0, (uint64_t) 1000,
                             (uint64_t) 1));
        test_gate_open(&gate);
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == 16));
        /* Their places come back just after their pages. */
        cr_assert(EVENTUALLY(({
                sd_bus_message *reply = NULL;
                int r = sd_bus_call_method(scene.us, SERVICE, VM, VM_INTERFACE, "Prefetch", NULL, &reply, "utt", (uint32_t) 0,
                                           (uint64_t) 1000, (uint64_t) 1);

                call_and_forget(reply);
                r >= 0;
        })));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == 17));
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(act, fill_is_turned_on_and_off) {
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        call_and_forget(call(scene.us, "SetFill", "bt", 1, (uint64_t) 0));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == PAGES));
        cr_assert(EVENTUALLY(string_is(scene.us, VM, VM_INTERFACE, "State", "complete")));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.Complete", "SetFill", "bt", 1, (uint64_t) 0));
        scene_stop(&scene);
        test_image_unlink(&image);
}

/* One page in 1000 s: what is there after the first pages stays there, however slow or fast the machine. */
TEST(act, fill_keeps_to_its_rate) {
        struct listener listener;
        struct scene scene;
        uint64_t present;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&listener, scene.us, "PropertiesChanged");
        call_and_forget(call(scene.us, "SetFill", "bt", 1, (uint64_t) 4));
        cr_assert_eq(VM_NUMBER(scene.us, "FillRate"), 4);
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "Fill") == 1));
        cr_assert(EVENTUALLY(heard(&listener, 1)), "Fill and FillRate say when they change");
        present = VM_NUMBER(scene.us, "PagesPresent");
        cr_assert_leq(present, 64, "the first slice at once, and no second one");
        /* Who waits is not limited. */
        call_and_forget(call(scene.us, "Prefetch", "utt", (uint32_t) 0, (uint64_t) 512, (uint64_t) 128));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") >= 128));
        cr_assert_leq(VM_NUMBER(scene.us, "PagesPresent"), 192);
        call_and_forget(call(scene.us, "SetFill", "bt", 1, (uint64_t) 0));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == PAGES));
        listen_done(&listener);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(act, a_client_is_disconnected) {
        struct scene scene;
        pb_client *client, *other;
        char path[64];

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert(find_client(scene.us, path));
        call_and_forget(call(scene.us, "DisconnectClient", "t", get_number(scene.us, path, CLIENT_INTERFACE, "Id")));
        cr_assert(EVENTUALLY(count_clients(scene.us) == 0));
        cr_assert(test_broker_will_log(&scene.broker, "on the admin's order"));
        other = test_connect(&scene.broker, PB_ROLE_DEVICE);
        test_ensure_and_check(other, &image, 0, 16 * TEST_PAGE);
        other = test_disconnect(other);
        client = pb_disconnect(client);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(act, poisoned_pages_are_healed) {
        sd_bus_message *reply;
        struct ensure_call wait;
        struct test_gate gate;
        struct scene scene;
        pb_client *client;
        uint64_t healed = 0;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 5 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=0");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        ensure_start(&wait, client, 5 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert_eq(ensure_wait(&wait), -EIO);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPoisoned"), 1);
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "degraded"));
        test_gate_open(&gate);
        reply = call(scene.us, "Heal", "utt", (uint32_t) 0, (uint64_t) 0, (uint64_t) 0);
        cr_assert(sd_bus_message_read(reply, "t", &healed) >= 0 && healed == 1);
        call_and_forget(reply);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPoisoned"), 0);
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "restoring"));
        test_ensure_and_check(client, &image, 5 * TEST_PAGE, TEST_PAGE);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

static unsigned audit(sd_bus *us, uint64_t *ret_pages, uint64_t *ret_slices) {
        sd_bus_message *reply = call(us, "Audit", "");
        const char *what, *text;
        unsigned n = 0;

        cr_assert(sd_bus_message_enter_container(reply, 'a', "(ss)") >= 0);
        while (sd_bus_message_read(reply, "(ss)", &what, &text) > 0) {
                fprintf(stderr, "%s: %s\n", what, text);
                n++;
        }
        cr_assert(sd_bus_message_exit_container(reply) >= 0);
        cr_assert(sd_bus_message_read(reply, "tt", ret_pages, ret_slices) >= 0);
        call_and_forget(reply);
        return n;
}

TEST(act, an_audit_finds_nothing_while_pages_are_read_and_poisoned) {
        struct ensure_call held, failed;
        struct test_gate gate;
        struct scene scene;
        pb_client *client;
        uint64_t pages, slices;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 200 * TEST_PAGE, TEST_PAGE);
        test_gate_fail(&gate, 300 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=0");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert_eq(audit(scene.us, &pages, &slices), 0);
        cr_assert(pages == PAGES && slices == 0);
        ensure_start(&failed, client, 300 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert_eq(ensure_wait(&failed), -EIO);
        ensure_start(&held, client, 200 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_gate_wait_held(&gate, 200 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(audit(scene.us, &pages, &slices), 0);
        cr_assert_eq(slices, 1);
        test_gate_open(&gate);
        cr_assert_eq(ensure_wait(&held), 0);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

/* ---- who may ---- */

static int try_as_other(void *arg) {
        sd_bus *us = child_bus_connect(arg);
        sd_bus_message *reply = NULL;
        const char *state;

        CHILD_CHECK(us);
        CHILD_CHECK(sd_bus_call_method(us, SERVICE, VM, "org.freedesktop.DBus.Properties", "Get", NULL, &reply, "ss",
                                       VM_INTERFACE, "State") >= 0);
        CHILD_CHECK(sd_bus_message_read(reply, "v", "s", &state) >= 0 && strcmp(state, "restoring") == 0);
        call_and_forget(reply);
        call_and_forget(call(us, "GetStuck", "tu", (uint64_t) 0, (uint32_t) 0));
        call_and_forget(call(us, "GetMap", "uttu", (uint32_t) 0, (uint64_t) 0, (uint64_t) 0, (uint32_t) 4));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "Audit", ""));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "SetFill", "bt", 1, (uint64_t) 0));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "Prefetch", "utt", (uint32_t) 0, (uint64_t) 0, (uint64_t) 9));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "PrefetchGuest", "tt", (uint64_t) 0, (uint64_t) 4096));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "Heal", "utt", (uint32_t) 0, (uint64_t) 0, (uint64_t) 0));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "DisconnectClient", "t", (uint64_t) 1));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "StartRecording", ""));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "StopRecording", ""));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "ReadRecording", "ttu", (uint64_t) 1, (uint64_t) 0, (uint32_t) 9));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "DropRecording", "t", (uint64_t) 1));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "SendWorkingSet", "ttay", (uint64_t) 1, (uint64_t) 0, 1, 0));
        CHILD_CHECK(call_fails(us, SD_BUS_ERROR_ACCESS_DENIED, "ReplayWorkingSet", "b", 1));
        /* Nor may he be a broker. */
        CHILD_CHECK(sd_bus_request_name(us, "org.pagebroker1.mine", 0) < 0);
        us = sd_bus_flush_close_unref(us);
        return 0;
}

TEST(act, other_users_only_look) {
        struct scene scene;

        require_other_uid();
        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        cr_assert_eq(test_run_as(TEST_OTHER_UID, try_as_other, &scene.bus), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "Fill"), 0);
        scene_stop(&scene);
        test_image_unlink(&image);
}

/* The bus refuses it the name; it serves all the same. */
TEST(act, a_broker_that_gets_no_name_goes_on_without) {
        struct test_broker broker;
        struct test_bus bus;
        pb_client *client;

        require_root();
        require_other_uid();
        make_image();
        test_bus_start(&bus);
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), bus.option, "--user=65534", "--allow=device:0");
        cr_assert(test_broker_will_log(&broker, "is the policy file installed"));
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure_and_check(client, &image, 0, 16 * TEST_PAGE);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}

TEST(act, a_bus_that_is_asked_for_and_not_there_is_an_error) {
        const char *const args[] = { "--bus=unix:path=/nowhere/bus", "--memory=ram0,size=4M", NULL };
        char log[2048];

        cr_assert_eq(test_broker_refuses(args, log, sizeof log), 1);
        cr_assert(strstr(log, "--bus=unix:path=/nowhere/bus: No such file or directory; without this option a broker goes on"),
                  "%s", log);
        cr_assert(!strstr(log, "event loop"), "%s", log);
}
