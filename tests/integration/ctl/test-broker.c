/* SPDX-License-Identifier: MIT */
/* pagebrokerctl and a real broker on a bus: what it prints is what the image and the clients must give. */
#include <cairo.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/map-picture.h"
#include "common/macro.h"
#include "tests/integration/ctl/support.h"
#include "tests/lib/connect.h"
#include "tests/lib/gate.h"

#define N_PAGES 512u
#define SAYS(text) cr_assert(strstr(ctl_out, (text)), "no '%s' in:\n%s", (text), ctl_out)

struct scene {
        struct test_bus bus;
        struct test_image image;
        struct test_gate gate;
        struct test_broker broker;
        pb_client *client;
};

static bool has_counted_data(const struct scene *scene) {
        struct pb_stats stats = { .size = sizeof stats };

        return pb_get_stats(scene->client, &stats) == 0 && stats.pages_data == test_image_count_data(&scene->image);
}

/* Half of the image are holes. Page 5 cannot be read; runs are of one page so that it can be told from its neighbours. */
static void begin(struct scene *scene) {
        require_fuse();
        test_bus_start(&scene->bus);
        test_image_make(&scene->image, &(struct test_image_spec) {
                                               .n_pages = N_PAGES, .seed = 8, .data_ppm = 500000, .run_pages = 1 });
        test_gate_start(&scene->gate, &scene->image);
        TEST_BROKER_START(&scene->broker, test_gate_memory("ram0", &scene->gate, ""), scene->bus.option, "--fill=off",
                          "--fault-around=4K", "--source-retries=0");
        scene->client = test_connect(&scene->broker, PB_ROLE_VMM);
        /* A thread counts the data, from the start on. */
        cr_assert(EVENTUALLY(has_counted_data(scene)));
        CTL_ENDS(0, scene->bus.option, "wait");
}

static void end(struct scene *scene) {
        scene->client = pb_disconnect(scene->client);
        test_broker_stop(&scene->broker);
        test_gate_stop(&scene->gate);
        test_image_unlink(&scene->image);
        test_bus_stop(&scene->bus);
}

/* The first page from `page` on that the source has data for. */
static uint64_t data_page(const struct scene *scene, uint64_t page) {
        while (test_image_is_hole(&scene->image, page))
                page++;
        cr_assert(page < N_PAGES);
        return page;
}

static uint64_t poison_page(struct scene *scene, uint64_t from) {
        uint64_t page = data_page(scene, from);

        test_gate_fail(&scene->gate, page * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(scene->client, page * TEST_PAGE, TEST_PAGE, PB_READ), -EIO);
        return page;
}

static json_object *ask(const struct scene *scene, const char *command) {
        CTL_ENDS(0, scene->bus.option, command, "--json");
        return ctl_json();
}

static bool has_answered(const struct scene *scene, uint64_t n) {
        json_object *status = ask(scene, "status");
        bool has = ctl_number(status, "latency/device/number") == n;

        (void) json_object_put(status);
        return has;
}

/* A client goes on when the bits are set, which is before the broker has counted them. A request is counted last. */
static void expect_answered(const struct scene *scene, uint64_t n) {
        cr_assert(EVENTUALLY(has_answered(scene, n)), "%s", ctl_out);
}

static uint64_t count_data(const struct scene *scene, uint64_t n_pages) {
        uint64_t n = 0;

        for (uint64_t page = 0; page < n_pages; page++)
                n += !test_image_is_hole(&scene->image, page);
        return n;
}

TEST(broker, status_counts_what_the_image_and_the_client_make) {
        struct scene scene;
        json_object *status;

        begin(&scene);
        test_ensure(scene.client, 0, 100 * TEST_PAGE, PB_READ);
        (void) poison_page(&scene, 200);
        expect_answered(&scene, 2);
        status = ask(&scene, "status");
        cr_assert_str_eq(ctl_text(status, "name"), "test");
        cr_assert_str_eq(ctl_text(status, "state"), "degraded");
        cr_assert_eq(ctl_number(status, "process_id"), (uint64_t) scene.broker.pid);
        cr_assert_eq(ctl_number(status, "pages_total"), N_PAGES);
        cr_assert_eq(ctl_number(status, "pages_data"), test_image_count_data(&scene.image));
        cr_assert_eq(ctl_number(status, "pages_present"), 100);
        cr_assert_eq(ctl_number(status, "pages_data_present"), count_data(&scene, 100));
        cr_assert_eq(ctl_number(status, "pages_poisoned"), 1);
        cr_assert_eq(ctl_number(status, "latency/device/number"), 2);
        cr_assert_eq(ctl_number(status, "regions/0/pages_present"), 100);
        cr_assert_eq(ctl_number(status, "sources/0/bytes_fetched"), count_data(&scene, 100) * TEST_PAGE);
        cr_assert_eq(ctl_number(status, "sources/0/reads_failed"), 1);
        (void) json_object_put(status);
        CTL_ENDS(0, scene.bus.option, "list");
        SAYS("test  degraded  2.0 MiB   19.5 %        1  ");
        end(&scene);
}

TEST(broker, clients_are_known_by_the_kernels_word) {
        struct scene scene;
        json_object *clients;

        begin(&scene);
        test_ensure(scene.client, 0, 10 * TEST_PAGE, PB_READ);
        expect_answered(&scene, 1);
        clients = ask(&scene, "clients");
        cr_assert_eq(json_object_array_length(json_object_object_get(clients, "clients")), 1);
        cr_assert_str_eq(ctl_text(clients, "clients/0/role"), "vmm");
        cr_assert_eq(ctl_number(clients, "clients/0/process_id"), (uint64_t) getpid());
        cr_assert_eq(ctl_number(clients, "clients/0/user_id"), getuid());
        cr_assert_eq(ctl_number(clients, "clients/0/faults_device"), 1);
        cr_assert_eq(ctl_number(clients, "clients/0/waiting"), 0);
        cr_assert(ctl_is(clients, "clients/0/connected"));
        (void) json_object_put(clients);
        end(&scene);
}

static bool is_stuck(const struct scene *scene, uint64_t n) {
        json_object *stuck = ask(scene, "stuck");
        bool is = ctl_number(stuck, "total") == n;

        (void) json_object_put(stuck);
        return is;
}

TEST(broker, stuck_names_the_page_whose_read_hangs) {
        struct scene scene;
        json_object *stuck;
        struct pb_completion completion;
        uint64_t page;

        begin(&scene);
        page = data_page(&scene, 50);
        test_gate_hold(&scene.gate, page * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(pb_submit(scene.client, &(struct pb_range) { page * TEST_PAGE, TEST_PAGE, PB_READ, 0 }, 1, 1), 0);
        test_gate_wait_held(&scene.gate, page * TEST_PAGE, TEST_PAGE, 1);
        stuck = ask(&scene, "stuck");
        cr_assert_eq(ctl_number(stuck, "total"), 1);
        cr_assert_eq(ctl_number(stuck, "waits/0/page"), page);
        cr_assert_eq(ctl_number(stuck, "waits/0/address"), page * TEST_PAGE);
        cr_assert_str_eq(ctl_text(stuck, "waits/0/memory"), "ram0");
        cr_assert_str_eq(ctl_text(stuck, "waits/0/class"), "device");
        cr_assert_str_eq(ctl_text(stuck, "waits/0/why"), "reading");
        (void) json_object_put(stuck);
        CTL_ENDS(0, scene.bus.option, "stuck");
        SAYS(" of ram0  ");
        CTL_ENDS(0, scene.bus.option, "clients");
        SAYS("1 wait, the oldest ");
        test_gate_open(&scene.gate);
        expect_answered(&scene, 1);
        cr_assert(is_stuck(&scene, 0));
        CTL_ENDS(0, scene.bus.option, "stuck");
        cr_assert_str_eq(ctl_out, "nobody waits for a page of test\n");
        cr_assert(EVENTUALLY(pb_reap(scene.client, &completion, 1) == 1));
        cr_assert(completion.cookie == 1 && completion.result == 0);
        end(&scene);
}

/* Pages 0 to 99 are there but for a poisoned one, and one is being read. */
static enum map_kind expected_kind(const struct scene *scene, uint64_t page, uint64_t poisoned, uint64_t reading) {
        bool is_hole = test_image_is_hole(&scene->image, page);

        if (page == poisoned)
                return MAP_POISONED;
        if (page == reading)
                return MAP_IN_FLIGHT;
        if (page < 100)
                return is_hole ? MAP_ZERO : MAP_PRESENT;
        return is_hole ? MAP_EMPTY : MAP_ABSENT;
}

static void expect_picture(const struct scene *scene, uint64_t poisoned, uint64_t reading) {
        struct map_strip strip = { .n_bins = N_PAGES };
        const struct map geometry = { .strips = &strip, .n_strips = 1 };
        char path[96], option[128];
        cairo_surface_t *surface;

        (void) snprintf(path, sizeof path, "%s/map.png", scene->bus.dir);
        (void) snprintf(option, sizeof option, "--png=%s", path);
        CTL_ENDS(0, scene->bus.option, option, "map");
        surface = cairo_image_surface_create_from_png(path);
        cr_assert_eq(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
        for (unsigned page = 0; page < N_PAGES; page++) {
                const unsigned char *pixels = cairo_image_surface_get_data(surface);
                unsigned x, y;
                uint32_t pixel;

                picture_cell(&geometry, 0, page, &x, &y);
                memcpy(&pixel,
                       pixels + (size_t) y * (size_t) cairo_image_surface_get_stride(surface) + x * sizeof pixel,
                       sizeof pixel);
                cr_assert_eq(pixel & 0xffffff, picture_colors[expected_kind(scene, page, poisoned, reading)], "page %u",
                             page);
        }
        cairo_surface_destroy(surface);
        cr_assert(unlink(path) == 0);
}

TEST(broker, map_shows_each_page_as_it_is) {
        struct scene scene;
        json_object *map;
        struct pb_completion completion;
        uint64_t poisoned, reading;
        char path[64];

        begin(&scene);
        poisoned = poison_page(&scene, 30);
        test_ensure(scene.client, 0, poisoned * TEST_PAGE, PB_READ);
        test_ensure(scene.client, (poisoned + 1) * TEST_PAGE, (99 - poisoned) * TEST_PAGE, PB_READ);
        reading = data_page(&scene, 300);
        test_gate_hold(&scene.gate, reading * TEST_PAGE, TEST_PAGE);
        cr_assert_eq(pb_submit(scene.client, &(struct pb_range) { reading * TEST_PAGE, TEST_PAGE, PB_READ, 0 }, 1, 1),
                     0);
        test_gate_wait_held(&scene.gate, reading * TEST_PAGE, TEST_PAGE, 1);
        map = ask(&scene, "map");
        cr_assert_eq(ctl_number(map, "strips/0/pages_per_bin"), 1);
        for (unsigned page = 0; page < N_PAGES; page++) {
                (void) snprintf(path, sizeof path, "strips/0/bins/%s/%u",
                                map_kind_keys[expected_kind(&scene, page, poisoned, reading)], page);
                cr_assert_eq(ctl_number(map, path), 1, "%s", path);
        }
        (void) json_object_put(map);
        expect_picture(&scene, poisoned, reading);
        test_gate_open(&scene.gate);
        cr_assert(EVENTUALLY(pb_reap(scene.client, &completion, 1) == 1));
        end(&scene);
}

TEST(broker, heal_and_prefetch_bring_pages) {
        struct scene scene;
        uint64_t page;
        char gpa[32];

        begin(&scene);
        page = poison_page(&scene, 40);
        CTL_ENDS(0, scene.bus.option, "heal", "1M", "4096");
        cr_assert_str_eq(ctl_out, "0 pages no longer poisoned: they will be asked for again\n");
        test_gate_open(&scene.gate);
        CTL_ENDS(0, scene.bus.option, "heal");
        cr_assert_str_eq(ctl_out, "1 page no longer poisoned: they will be asked for again\n");
        (void) snprintf(gpa, sizeof gpa, "%llu", (unsigned long long) page * TEST_PAGE);
        CTL_ENDS(0, scene.bus.option, "prefetch", gpa, "4096");
        cr_assert(EVENTUALLY(pb_is_present(scene.client, page * TEST_PAGE, TEST_PAGE)));
        test_ensure_and_check(scene.client, &scene.image, page * TEST_PAGE, TEST_PAGE);
        end(&scene);
}

static bool has_rate(const struct scene *scene, uint64_t rate, bool on) {
        json_object *status = ask(scene, "status");
        bool has = ctl_number(status, "fill_rate") == rate && ctl_is(status, "fill") == on;

        (void) json_object_put(status);
        return has;
}

TEST(broker, fill_is_limited_and_switched_and_watch_sees_its_end) {
        struct scene scene;

        begin(&scene);
        CTL_ENDS(0, scene.bus.option, "fill", "rate", "64M");
        cr_assert(EVENTUALLY(has_rate(&scene, 64 << 20, false)));
        CTL_ENDS(0, scene.bus.option, "fill", "rate", "0");
        cr_assert(EVENTUALLY(has_rate(&scene, 0, false)));
        CTL_ENDS(0, scene.bus.option, "fill", "on");
        CTL_ENDS(0, scene.bus.option, "--interval=0.01", "watch");
        SAYS("100.0 % of the data, 100.0 % of the memory, ");
        test_ensure_and_check(scene.client, &scene.image, 0, N_PAGES * TEST_PAGE);
        CTL_ENDS(0, scene.bus.option, "fill", "on");
        cr_assert_str_eq(ctl_out, "all of test is here: nothing is left to fill\n");
        CTL_ENDS(0, scene.bus.option, "list");
        SAYS("test  complete  2.0 MiB  100.0 %");
        end(&scene);
}

TEST(broker, watch_ends_when_only_poisoned_pages_are_left) {
        struct scene scene;
        uint64_t page;

        begin(&scene);
        page = poison_page(&scene, 40);
        test_ensure(scene.client, 0, page * TEST_PAGE, PB_READ);
        test_ensure(scene.client, (page + 1) * TEST_PAGE, (N_PAGES - 1 - page) * TEST_PAGE, PB_READ);
        CTL_ENDS(1, scene.bus.option, "--interval=0.01", "watch");
        cr_assert(strstr(ctl_err, "1 page could not be read from the source; all else is here"), "%s", ctl_err);
        end(&scene);
}

TEST(broker, audit_finds_that_the_books_balance) {
        struct scene scene;
        json_object *audit;

        begin(&scene);
        (void) poison_page(&scene, 40);
        test_ensure(scene.client, 100 * TEST_PAGE, 200 * TEST_PAGE, PB_WRITE);
        expect_answered(&scene, 2);
        audit = ask(&scene, "audit");
        cr_assert_eq(json_object_array_length(json_object_object_get(audit, "findings")), 0, "%s", ctl_out);
        cr_assert_eq(ctl_number(audit, "pages"), N_PAGES);
        (void) json_object_put(audit);
        end(&scene);
}

TEST(broker, disconnect_ends_the_session) {
        struct scene scene;
        json_object *clients;
        pb_client *other;
        char id[32];

        begin(&scene);
        other = test_connect(&scene.broker, PB_ROLE_DEVICE);
        clients = ask(&scene, "clients");
        cr_assert_str_eq(ctl_text(clients, "clients/1/role"), "device");
        (void) snprintf(id, sizeof id, "%llu", (unsigned long long) ctl_number(clients, "clients/1/id"));
        (void) json_object_put(clients);
        CTL_ENDS(0, scene.bus.option, "disconnect", id);
        cr_assert_eq(pb_ensure(other, 0, TEST_PAGE, PB_READ), -ECONNRESET);
        test_ensure(scene.client, 0, TEST_PAGE, PB_READ);
        CTL_ENDS(1, scene.bus.option, "disconnect", "999999");
        other = pb_disconnect(other);
        end(&scene);
}

TEST(broker, another_user_may_look_and_change_nothing) {
        static const char *const changes[][4] = {
                { "fill", "on" }, { "audit" }, { "heal" }, { "prefetch", "0", "4096" }, { "disconnect", "1" },
                { "workingset", "record", "/dev/shm/pagebrokerctl-test.pws" }, { "workingset", "stop" },
        };
        struct scene scene;

        require_other_uid();
        begin(&scene);
        cr_assert_eq(ctl_run(TEST_OTHER_UID, (const char *const[]) { scene.bus.option, "status", NULL }), 0, "%s",
                     ctl_err);
        SAYS("memory here  0 of 512 pages");
        cr_assert_eq(ctl_run(TEST_OTHER_UID, (const char *const[]) { scene.bus.option, "stuck", NULL }), 0, "%s",
                     ctl_err);
        cr_assert_eq(ctl_run(TEST_OTHER_UID, (const char *const[]) { scene.bus.option, "map", NULL }), 0, "%s",
                     ctl_err);
        for (unsigned i = 0; i < ELEMENTS(changes); i++) {
                const char *words[6] = { scene.bus.option };

                memcpy(words + 1, changes[i], sizeof changes[i]);
                cr_assert_eq(ctl_run(TEST_OTHER_UID, words), 4, "%s: %s%s", changes[i][0], ctl_out, ctl_err);
                cr_assert(strstr(ctl_err, "not allowed"), "%s", ctl_err);
        }
        end(&scene);
}

TEST(broker, metrics_are_the_same_numbers) {
        struct scene scene;
        char expected[128];

        begin(&scene);
        test_ensure(scene.client, 0, 100 * TEST_PAGE, PB_READ);
        (void) poison_page(&scene, 200);
        expect_answered(&scene, 2);
        CTL_ENDS(0, scene.bus.option, "metrics");
        SAYS("pagebroker_up{vm=\"test\"} 1\n");
        SAYS("pagebroker_memory_pages_present{vm=\"test\",memory=\"ram0\"} 100\n");
        SAYS("pagebroker_memory_pages_poisoned{vm=\"test\",memory=\"ram0\"} 1\n");
        SAYS("pagebroker_source_reads_failed_total{vm=\"test\",memory=\"ram0\"} 1\n");
        (void) snprintf(expected, sizeof expected,
                        "pagebroker_source_fetched_bytes_total{vm=\"test\",memory=\"ram0\"} %llu\n",
                        (unsigned long long) count_data(&scene, 100) * TEST_PAGE);
        SAYS(expected);
        SAYS("pagebroker_wait_seconds_count{vm=\"test\",class=\"device\"} 2\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"test\",class=\"device\",le=\"+Inf\"} 2\n");
        end(&scene);
}
