/* SPDX-License-Identifier: MIT */
/* What happens is told, once, and not faster than it can be read. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/integration/bus/support.h"
#include "tests/lib/gate.h"

static struct test_image image;

#define PAGES 1024u

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 51, .n_pages = PAGES });
}

TEST(signals, completion) {
        struct listener completed, changed;
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&completed, scene.us, "Completed");
        listen_for(&changed, scene.us, "PropertiesChanged");
        (void) sd_bus_message_unref(call(scene.us, "Prefetch", "utt", (uint32_t) 0, (uint64_t) 0, (uint64_t) PAGES - 1));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == PAGES - 1));
        cr_assert(!heard(&completed, 1), "one page is absent");
        (void) sd_bus_message_unref(call(scene.us, "Prefetch", "utt", (uint32_t) 0, (uint64_t) PAGES - 1, (uint64_t) 1));
        cr_assert(EVENTUALLY(heard(&completed, 1)));
        cr_assert(EVENTUALLY(heard(&changed, 1)));
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "complete"));
        listen_done(&completed);
        listen_done(&changed);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(signals, a_poisoned_page) {
        const char *memory, *source, *reason;
        struct listener errors;
        struct ensure_call wait;
        uint64_t page, n_pages;
        struct test_gate gate;
        struct scene scene;
        uint32_t left_out;
        pb_client *client;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 77 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=0");
        listen_for(&errors, scene.us, "PageError");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        ensure_start(&wait, client, 77 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert_eq(ensure_wait(&wait), -EIO);
        cr_assert(EVENTUALLY(heard(&errors, 1)));
        cr_assert(sd_bus_message_read(errors.last, "sttssu", &memory, &page, &n_pages, &source, &reason, &left_out) >= 0);
        cr_assert_str_eq(memory, "ram0");
        cr_assert(page == 77 && n_pages == 1 && left_out == 0);
        cr_assert(strstr(source, gate.path) && strcmp(reason, "Input/output error") == 0, "%s: %s", source, reason);
        client = test_disconnect(client);
        listen_done(&errors);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(signals, many_poisoned_pages_are_few_signals_and_a_number) {
        struct listener errors;
        struct test_gate gate;
        struct scene scene;
        pb_client *client;
        unsigned failed = 0;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 0, PAGES * TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=0");
        listen_for(&errors, scene.us, "PageError");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        for (unsigned page = 0; page < 200; page++) {
                struct ensure_call wait;

                ensure_start(&wait, client, page * TEST_PAGE, TEST_PAGE, PB_READ);
                failed += ensure_wait(&wait) == -EIO;
        }
        cr_assert_eq(failed, 200);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPoisoned"), 200);
        cr_assert(EVENTUALLY(heard(&errors, 1)));
        (void) heard(&errors, 201);
        cr_assert_leq(errors.n, 200);
        client = test_disconnect(client);
        listen_done(&errors);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(signals, a_lost_source) {
        const char *memory, *source, *reason;
        struct listener lost;
        struct ensure_call wait;
        struct scene scene;
        pb_client *client;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&lost, scene.us, "SourceLost");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert(utimensat(AT_FDCWD, image.path, (const struct timespec[]) { { .tv_sec = 1 }, { .tv_sec = 1 } }, 0) == 0);
        for (unsigned i = 0; i < 2; i++) {
                ensure_start(&wait, client, i * 300 * TEST_PAGE, TEST_PAGE, PB_READ);
                cr_assert_eq(ensure_wait(&wait), -EIO);
        }
        cr_assert(EVENTUALLY(heard(&lost, 1)));
        cr_assert(!heard(&lost, 2), "once a memory");
        cr_assert(sd_bus_message_read(lost.last, "sss", &memory, &source, &reason) >= 0);
        cr_assert(strcmp(memory, "ram0") == 0 && strstr(source, image.path) && strstr(reason, "has changed"), "%s", reason);
        cr_assert_eq(VM_NUMBER(scene.us, "SourcesLost"), 1);
        cr_assert_eq(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "Lost"), 1);
        cr_assert(EVENTUALLY(string_is(scene.us, VM, VM_INTERFACE, "State", "degraded")));
        client = test_disconnect(client);
        listen_done(&lost);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(signals, clients_come_and_go) {
        struct listener come, gone, added, removed;
        const char *name, *role, *path;
        struct scene scene;
        uint32_t pid, uid;
        pb_client *client;
        char expected[64];
        uint64_t id, gone_id;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&come, scene.us, "ClientConnected");
        listen_for(&gone, scene.us, "ClientDisconnected");
        listen_for(&added, scene.us, "InterfacesAdded");
        listen_for(&removed, scene.us, "InterfacesRemoved");
        client = test_connect(&scene.broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(heard(&come, 1)) && EVENTUALLY(heard(&added, 1)));
        cr_assert(sd_bus_message_read(come.last, "tssuu", &id, &name, &role, &pid, &uid) >= 0);
        cr_assert(strcmp(role, "vmm") == 0 && pid == (uint32_t) getpid() && uid == getuid());
        (void) snprintf(expected, sizeof expected, "/org/pagebroker1/client/%llu", (unsigned long long) id);
        cr_assert(sd_bus_message_read(added.last, "o", &path) >= 0);
        cr_assert_str_eq(path, expected);
        cr_assert(!heard(&gone, 1) && !heard(&removed, 1));
        client = test_disconnect(client);
        cr_assert(EVENTUALLY(heard(&gone, 1)) && EVENTUALLY(heard(&removed, 1)));
        cr_assert(sd_bus_message_read(gone.last, "ts", &gone_id, &name) >= 0 && gone_id == id);
        cr_assert(sd_bus_message_read(removed.last, "o", &path) >= 0);
        cr_assert_str_eq(path, expected);
        listen_done(&come);
        listen_done(&gone);
        listen_done(&added);
        listen_done(&removed);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(signals, a_rush_of_clients_is_announced_in_time) {
        struct listener come, gone;
        pb_client *clients[60];
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&come, scene.us, "ClientConnected");
        listen_for(&gone, scene.us, "ClientDisconnected");
        for (unsigned i = 0; i < 60; i++)
                clients[i] = test_connect(&scene.broker, PB_ROLE_DEVICE);
        /* All of them sooner or later, since they stay. */
        cr_assert(EVENTUALLY(heard(&come, 60)));
        cr_assert_eq(count_clients(scene.us), 60);
        for (unsigned i = 0; i < 60; i++)
                clients[i] = test_disconnect(clients[i]);
        cr_assert(EVENTUALLY(heard(&gone, 60)));
        cr_assert_eq(count_clients(scene.us), 0);
        listen_done(&come);
        listen_done(&gone);
        scene_stop(&scene);
        test_image_unlink(&image);
}
