/* SPDX-License-Identifier: MIT */
/* What is shown is what is: documented, and with the numbers of an image that is known. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "tests/integration/bus/support.h"
#include "tests/lib/gate.h"

static struct test_image image, image1;

#define PAGES 1024u

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 31, .n_pages = PAGES, .data_ppm = 500000 });
}

/* ---- documented ---- */

static void compare(const struct scene *scene, const char *path, const char *interface) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        char file[96], command[512];
        const char *xml;
        FILE *f;

        cr_assert(sd_bus_call_method(scene->us, SERVICE, path, "org.freedesktop.DBus.Introspectable", "Introspect", &error,
                                     &reply, "") >= 0,
                  "%s: %s", path, error.message);
        cr_assert(sd_bus_message_read(reply, "s", &xml) >= 0);
        (void) snprintf(file, sizeof file, "%s/shown.xml", scene->bus.dir);
        f = fopen(file, "we");
        cr_assert(f && fputs(xml, f) >= 0 && fclose(f) == 0);
        (void) sd_bus_message_unref(reply);
        (void) snprintf(command, sizeof command, "%s/tests/integration/bus/compare.py %s/broker/bus/%s.xml %s", TEST_SOURCE_ROOT,
                        TEST_SOURCE_ROOT, interface, file);
        cr_assert(system(command) == 0, "%s differs from its documentation", interface);
        (void) unlink(file);
}

TEST(show, interfaces_are_as_documented) {
        struct scene scene;
        pb_client *client;
        char path[64];

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert(find_client(scene.us, path));
        compare(&scene, VM, VM_INTERFACE);
        compare(&scene, "/org/pagebroker1/region/0", REGION_INTERFACE);
        compare(&scene, SOURCE0, SOURCE_INTERFACE);
        compare(&scene, path, CLIENT_INTERFACE);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, there_is_nothing_at_other_paths) {
        static const char *const paths[] = { "/org/pagebroker1/region/1", "/org/pagebroker1/region/00",
                                             "/org/pagebroker1/vm/x", "/org/pagebroker1/client/1",
                                             "/org/pagebroker1/source/18446744073709551616" };
        static const char *const interfaces[] = { REGION_INTERFACE, REGION_INTERFACE, VM_INTERFACE, CLIENT_INTERFACE,
                                                  SOURCE_INTERFACE };
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

                cr_assert(sd_bus_call_method(scene.us, SERVICE, paths[i], "org.freedesktop.DBus.Properties", "GetAll", &error,
                                             NULL, "s", interfaces[i]) < 0);
                cr_assert(sd_bus_error_has_name(&error, SD_BUS_ERROR_UNKNOWN_OBJECT), "%s: %s", paths[i], error.name);
        }
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, the_name_is_escaped) {
        struct test_broker broker;
        struct test_bus bus;
        sd_bus *us;

        make_image();
        test_bus_start(&bus);
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), bus.option, "--name=9.web-1");
        us = test_bus_connect(&bus);
        cr_assert(test_bus_has(us, "org.pagebroker1._39_2eweb_2d1"));
        us = test_bus_disconnect(us);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}

/* ---- numbers ---- */

TEST(show, a_vm_that_has_only_begun) {
        struct scene scene;
        uint64_t before_us;

        make_image();
        before_us = (uint64_t) time(NULL) * USEC_PER_SEC;
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off", "--client-limit=77");
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "Name", "test"));
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "restoring"));
        cr_assert_eq(VM_NUMBER(scene.us, "ProcessID"), (uint64_t) scene.broker.pid);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesTotal"), PAGES);
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesData") == test_image_count_data(&image))); /* a thread counts */
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "BytesFetched"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "ClientLimit"), 77);
        cr_assert_eq(VM_NUMBER(scene.us, "Fill"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "CompletedAt"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "Clients"), 0);
        cr_assert(get_double(scene.us, VM, VM_INTERFACE, "FillProgress") == 0);
        cr_assert_geq(VM_NUMBER(scene.us, "StartedAt"), before_us);
        cr_assert_leq(VM_NUMBER(scene.us, "StartedAt"), ((uint64_t) time(NULL) + 1) * USEC_PER_SEC);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, a_vm_that_is_complete) {
        struct scene scene;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image));
        cr_assert(EVENTUALLY(string_is(scene.us, VM, VM_INTERFACE, "State", "complete")));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "CompletedAt") > 0));
        cr_assert_geq(VM_NUMBER(scene.us, "CompletedAt"), VM_NUMBER(scene.us, "StartedAt"));
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), PAGES);
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesFetched") == test_image_count_data(&image)));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "BytesFetched") == test_image_count_data(&image) * TEST_PAGE));
        cr_assert_eq(VM_NUMBER(scene.us, "PagesInFlight"), 0);
        cr_assert(EVENTUALLY(get_double(scene.us, VM, VM_INTERFACE, "FillProgress") == 1));
        cr_assert_eq(VM_NUMBER(scene.us, "FillEndsAt"), 0);
        cr_assert_eq(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "PagesPresent"), PAGES);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, regions_and_sources_have_their_own_numbers) {
        static const char region1[] = "/org/pagebroker1/region/1", source1[] = "/org/pagebroker1/source/1";
        _cleanup_free_ char *address = NULL;
        struct scene scene;
        pb_client *client;

        make_image();
        test_image_make(&image1, &(struct test_image_spec) { .seed = 32, .n_pages = 512 });
        SCENE_START(&scene, TEST_MEMORY("low", &image), TEST_MEMORY("high", &image1), "--fill=off",
                    "--region=0,size=4M,memory=low", "--region=4G,size=1M,memory=high,offset=1M");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        test_ensure(client, (4ull << 30) + 64 * TEST_PAGE, 10 * TEST_PAGE, PB_READ);
        cr_assert(string_is(scene.us, region1, REGION_INTERFACE, "Memory", "high"));
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "MemoryIndex"), 1);
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "Address"), 4ull << 30);
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "Size"), 1 << 20);
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "Offset"), 1 << 20);
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "BackingSize"), 4096);
        cr_assert_eq(get_number(scene.us, region1, REGION_INTERFACE, "PagesTotal"), 256);
        cr_assert(EVENTUALLY(get_number(scene.us, region1, REGION_INTERFACE, "PagesPresent") == 10));
        cr_assert_eq(get_number(scene.us, "/org/pagebroker1/region/0", REGION_INTERFACE, "PagesPresent"), 0);
        cr_assert(EVENTUALLY(get_number(scene.us, source1, SOURCE_INTERFACE, "PagesPresent") == 10));
        cr_assert(EVENTUALLY(get_number(scene.us, source1, SOURCE_INTERFACE, "PagesFetched") == 10));
        cr_assert_eq(get_number(scene.us, source1, SOURCE_INTERFACE, "BytesFetched"), 10 * TEST_PAGE);
        cr_assert(EVENTUALLY(get_number(scene.us, source1, SOURCE_INTERFACE, "PagesData") == 512));
        cr_assert_eq(get_number(scene.us, source1, SOURCE_INTERFACE, "Size"), 2 << 20);
        cr_assert_eq(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "PagesPresent"), 0);
        address = get_string(scene.us, source1, SOURCE_INTERFACE, "Address");
        cr_assert(strncmp(address, "file:", 5) == 0 && strcmp(address + 5, image1.path) == 0, "%s", address);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_image_unlink(&image);
        test_image_unlink(&image1);
}

/* ---- clients ---- */

TEST(show, a_client_and_its_faults) {
        struct latency_row row, all;
        struct scene scene;
        pb_client *client;
        char path[64];

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert(find_client(scene.us, path));
        for (unsigned i = 0; i < 20; i++)
                test_ensure(client, (uint64_t) i * 7 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_ensure(client, 0, TEST_PAGE, PB_READ); /* present: nobody is asked */
        cr_assert(string_is(scene.us, path, CLIENT_INTERFACE, "Role", "device"));
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "ProcessID"), (uint64_t) getpid());
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "UserID"), getuid());
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Connected"), 1);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "FaultsDevice"), 20);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "FaultsVCPU"), 0);
        /* A waiter may see its page in the map before the broker has written its outcome. */
        cr_assert(EVENTUALLY(get_latency(scene.us, path, CLIENT_INTERFACE, "device").count == 20));
        cr_assert(EVENTUALLY(get_number(scene.us, path, CLIENT_INTERFACE, "Waiting") == 0));
        cr_assert(EVENTUALLY(get_number(scene.us, path, CLIENT_INTERFACE, "WaitingSince") == 0));
        row = get_latency(scene.us, path, CLIENT_INTERFACE, "device");
        cr_assert_eq(row.count, 20);
        cr_assert(row.p50_ns > 0 && row.p50_ns <= row.p99_ns && row.p99_ns <= row.max_ns && row.sum_ns >= row.max_ns);
        client = test_disconnect(client);
        cr_assert(EVENTUALLY(count_clients(scene.us) == 0));
        all = get_latency(scene.us, VM, VM_INTERFACE, "device");
        cr_assert(all.count == 20 && all.sum_ns == row.sum_ns, "a client's times stay counted when it has gone");
        cr_assert_eq(get_latency(scene.us, VM, VM_INTERFACE, "vcpu").count, 0);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, observers_are_counted_and_have_no_object) {
        struct scene scene;
        pb_client *observer;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        observer = test_connect(&scene.broker, PB_ROLE_OBSERVER);
        cr_assert_eq(VM_NUMBER(scene.us, "Clients"), 1);
        cr_assert_eq(count_clients(scene.us), 0);
        observer = test_disconnect(observer);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, who_waits_for_which_page_and_why) {
        struct stuck_row rows[4];
        struct ensure_call wait;
        struct test_gate gate;
        struct scene scene;
        pb_client *client;
        uint32_t total;
        char path[64];

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 33, .n_pages = PAGES });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 100 * TEST_PAGE, TEST_PAGE);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--region=1G,size=4M,memory=ram0",
                    "--client-requests=33", "--client-bytes=8M", "--client-descriptors=5");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        cr_assert(find_client(scene.us, path));
        cr_assert_eq(get_stuck(scene.us, rows, 4, &total), 0);
        cr_assert_eq(total, 0);
        /* The first of its pages are here: it waits for the one that is held. */
        test_ensure(client, (1 << 30) + 96 * TEST_PAGE, 4 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stuck(scene.us, rows, 4, &total) == 0));
        ensure_start(&wait, client, (1 << 30) + 96 * TEST_PAGE, 5 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&gate, 100 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(get_stuck(scene.us, rows, 4, &total), 1);
        cr_assert_eq(total, 1);
        cr_assert_eq(rows[0].page, 100);
        cr_assert_eq(rows[0].gpa, (1 << 30) + 100 * TEST_PAGE);
        cr_assert_str_eq(rows[0].memory, "ram0");
        cr_assert_str_eq(rows[0].class, "device");
        cr_assert_str_eq(rows[0].why, "reading");
        cr_assert_eq(rows[0].client, get_number(scene.us, path, CLIENT_INTERFACE, "Id"));
        cr_assert(rows[0].waited_us > 0 && rows[0].tries == 0 && rows[0].reason[0] == 0);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Requests"), 1);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "RequestsLimit"), 33);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "BytesInFlight"), 256 << 10);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "BytesInFlightLimit"), 8 << 20);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "PeersLimit"), 5);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "HeldBack"), 0);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Waiting"), 1);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "WaitingPage"), 100);
        cr_assert(string_is(scene.us, path, CLIENT_INTERFACE, "WaitingMemory", "ram0"));
        cr_assert_geq(get_number(scene.us, path, CLIENT_INTERFACE, "WaitingSince"), VM_NUMBER(scene.us, "StartedAt"));
        test_gate_release(&gate, 100 * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(ensure_wait(&wait), 0);
        cr_assert(EVENTUALLY(get_stuck(scene.us, rows, 4, &total) == 0));
        cr_assert(EVENTUALLY(get_number(scene.us, path, CLIENT_INTERFACE, "Waiting") == 0));
        client = test_disconnect(client);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(show, a_failing_read_is_being_retried) {
        struct stuck_row rows[4] = {};
        struct ensure_call wait;
        struct test_gate gate;
        struct scene scene;
        pb_client *client;
        uint32_t total;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 34, .n_pages = PAGES });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 7 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=100");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        ensure_start(&wait, client, 7 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stuck(scene.us, rows, 4, &total) == 1 && strcmp(rows[0].why, "retrying") == 0));
        cr_assert(rows[0].tries >= 1 && strcmp(rows[0].reason, "Input/output error") == 0, "%u %s", rows[0].tries,
                  rows[0].reason);
        cr_assert_geq(get_number(scene.us, SOURCE0, SOURCE_INTERFACE, "ReadsFailed"), 1);
        test_gate_open(&gate);
        cr_assert_eq(ensure_wait(&wait), 0);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

/* ---- pictures ---- */

struct bin {
        uint64_t present, absent, in_flight, poisoned, zero_present, zero_absent;
};

static unsigned get_map(sd_bus *us, uint64_t first, uint64_t n, uint32_t n_bins, uint64_t *ret_per_bin, struct bin *ret) {
        sd_bus_message *reply = call(us, "GetMap", "uttu", (uint32_t) 0, first, n, n_bins);
        unsigned i = 0;

        cr_assert(sd_bus_message_read(reply, "t", ret_per_bin) >= 0);
        cr_assert(sd_bus_message_enter_container(reply, 'a', "(tttttt)") >= 0);
        while (sd_bus_message_read(reply, "(tttttt)", &ret[i].present, &ret[i].absent, &ret[i].in_flight, &ret[i].poisoned,
                                   &ret[i].zero_present, &ret[i].zero_absent) > 0)
                i++;
        (void) sd_bus_message_unref(reply);
        return i;
}

TEST(show, a_picture_counts_every_page_once) {
        struct bin bins[300], want;
        struct scene scene;
        pb_client *client;
        uint64_t per_bin;

        make_image();
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        test_ensure(client, 100 * TEST_PAGE, 333 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesInFlight") == 0)); /* settled after its bits are set */
        /* Bins of 4 pages, of 64, of 3 (the last one shorter), of everything. */
        for (unsigned i = 0; i < 4; i++) {
                static const uint32_t sizes[] = { 256, 16, 299, 1 };
                static const uint64_t firsts[] = { 0, 0, 130, 0 };
                uint64_t n = i == 2 ? PAGES - 130 - 1 : 0, first = firsts[i], end = n ? first + n : PAGES;
                unsigned n_bins = get_map(scene.us, first, n, sizes[i], &per_bin, bins);

                cr_assert_eq(per_bin, (end - first + sizes[i] - 1) / sizes[i]);
                cr_assert_eq(n_bins, (end - first + per_bin - 1) / per_bin);
                for (unsigned b = 0; b < n_bins; b++) {
                        want = (struct bin) {};
                        for (uint64_t page = first + b * per_bin; page < end && page < first + (b + 1) * per_bin; page++) {
                                bool hole = test_image_is_hole(&image, page), here = page >= 100 && page < 433;

                                want.present += here && !hole;
                                want.absent += !here && !hole;
                                want.zero_present += here && hole;
                                want.zero_absent += !here && hole;
                        }
                        cr_assert(memcmp(&bins[b], &want, sizeof want) == 0, "bin %u of %u", b, n_bins);
                }
        }
        client = test_disconnect(client);
        scene_stop(&scene);
        test_image_unlink(&image);
}

TEST(show, a_picture_has_what_is_in_flight_and_what_is_poisoned) {
        struct ensure_call held, failed;
        struct test_gate gate;
        struct scene scene;
        struct bin bins[16];
        pb_client *client;
        uint64_t per_bin;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 35, .n_pages = PAGES });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 200 * TEST_PAGE, TEST_PAGE);
        test_gate_fail(&gate, 300 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-retries=0");
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        ensure_start(&failed, client, 300 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert_eq(ensure_wait(&failed), -EIO);
        ensure_start(&held, client, 200 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_gate_wait_held(&gate, 200 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(get_map(scene.us, 0, 0, 16, &per_bin, bins), 16);
        for (unsigned b = 0; b < 16; b++) {
                /* A read may take neighbours along. */
                cr_assert((bins[b].in_flight >= 1) == (b == 200 / 64), "bin %u", b);
                cr_assert_eq(bins[b].poisoned, b == 300 / 64, "bin %u", b);
                cr_assert_eq(bins[b].absent + bins[b].present + bins[b].in_flight + bins[b].poisoned, 64, "bin %u", b);
        }
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "degraded"));
        test_gate_open(&gate);
        cr_assert_eq(ensure_wait(&held), 0);
        client = test_disconnect(client);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}
