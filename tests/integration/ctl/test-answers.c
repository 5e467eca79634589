/* SPDX-License-Identifier: MIT */
/* What the commands make of a broker's answers, every figure of which is in fake.c. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/ctl/support.h"

struct scene {
        struct test_bus bus;
        pid_t fake;
        int calls;
};

static void begin(struct scene *scene, enum fake_mood mood) {
        scene->calls = memfd_create("calls", MFD_CLOEXEC);
        test_bus_start(&scene->bus);
        scene->fake = fake_start(&scene->bus, "org.pagebroker1.web1", mood, scene->calls);
}

static void end(struct scene *scene) {
        fake_stop(scene->fake);
        test_bus_stop(&scene->bus);
        scene->calls = fd_close(scene->calls);
}

/* What was called, one line each, since the last time. */
static const char *take_calls(struct scene *scene) {
        static char text[1024];
        ssize_t n = pread(scene->calls, text, sizeof text - 1, 0);

        text[n > 0 ? n : 0] = 0;
        cr_assert(ftruncate(scene->calls, 0) == 0 && lseek(scene->calls, 0, SEEK_SET) == 0);
        return text;
}

#define SAYS(text) cr_assert(strstr(ctl_out, (text)), "no '%s' in:\n%s", (text), ctl_out)
#define COMPLAINS(text) cr_assert(strstr(ctl_err, (text)), "no '%s' in:\n%s", (text), ctl_err)

TEST(answers, status_is_told_to_people) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "status");
        SAYS("vm           web1, degraded, served by process 4711 (pagebrokerd 9.8.7)\n");
        SAYS("data here    750 of 3000 pages of 4 KiB (25.0 %)\n");
        SAYS("memory here  1024 of 4096 pages (25.0 %)\n");
        SAYS("poisoned     3 pages: could not be read from the source\n");
        SAYS("vcpu         4 waits: half within 20 us, 99 % within 3.0 ms, longest 2.5 ms\n");
        SAYS("fetched      2.9 MiB\n");
        SAYS("fill         on, at most 1.0 MiB/s, 512.0 KiB/s lately, all here in about 1 min ");
        SAYS("0x100000000  8.0 MiB   25.0 %         0  ram0    file:/srv/web1.memory\n");
        cr_assert(!strstr(ctl_out, "device  "), "%s", ctl_out);
        end(&scene);
}

TEST(answers, status_is_told_to_programs) {
        struct scene scene;
        json_object *status;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "--json", "status");
        status = ctl_json();
        cr_assert_eq(ctl_number(status, "pages_total"), 4096);
        cr_assert_eq(ctl_number(status, "pages_data_present"), 750);
        cr_assert_eq(ctl_number(status, "process_id"), 4711);
        cr_assert_eq(ctl_number(status, "latency/vcpu/p99_ns"), 3000000);
        cr_assert_eq(ctl_number(status, "regions/0/address"), 0);
        cr_assert_eq(ctl_number(status, "regions/1/address"), 0x100000000);
        cr_assert_eq(ctl_number(status, "sources/0/reads_failed"), 5);
        cr_assert_not(ctl_is(status, "complete"));
        cr_assert(ctl_is(status, "fill"));
        (void) json_object_put(status);
        end(&scene);
}

TEST(answers, clients_says_who_waits_for_what) {
        struct scene scene;
        json_object *clients;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "clients");
        SAYS(" 7  q\"e\\mu?[31m  vmm ");
        SAYS("12  disk         device  101  1000      0            0             11           6   4 of 64          9  "
             "-\n");
        SAYS("2 waits, the oldest 2 h 5 min for page 1234 of ram0\n");
        CTL_ENDS(0, scene.bus.option, "clients", "--json");
        clients = ctl_json();
        cr_assert_eq(ctl_number(clients, "clients/0/id"), 7);
        cr_assert_eq(ctl_number(clients, "clients/0/waiting_page"), 1234);
        cr_assert_geq(ctl_number(clients, "clients/0/waiting_us"), 7501000000);
        cr_assert_str_eq(ctl_text(clients, "clients/1/name"), "disk");
        (void) json_object_put(clients);
        end(&scene);
}

TEST(answers, stuck_says_who_waits_how_long_and_why) {
        struct scene scene;
        json_object *stuck;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "stuck");
        SAYS("1 min 5 s  qemu (7)   vcpu    1234 of ram0  0x4d2000      retrying, 2 failed tries: Input/output "
             "error\n");
        SAYS("   1.5 ms  disk (12)  device  3000 of ram0  0x1003b8000   reading\n");
        SAYS("    15 us  disk (12)  device  3001 of ram0  in no region  queued\n");
        SAYS("... and 2 more that wait less long\n");
        CTL_ENDS(0, scene.bus.option, "stuck", "--json");
        stuck = ctl_json();
        cr_assert_eq(ctl_number(stuck, "waits/0/waiting_us"), 65000000);
        cr_assert_str_eq(ctl_text(stuck, "waits/0/reason"), "Input/output error");
        cr_assert_eq(ctl_number(stuck, "waits/1/address"), 0x1003b8000);
        cr_assert(strstr(ctl_out, "\"page\": 3001, \"address\": null"), "%s", ctl_out);
        cr_assert_eq(ctl_number(stuck, "total"), 5);
        (void) json_object_put(stuck);
        end(&scene);
}

TEST(answers, fill_changes_what_is_said_and_nothing_else) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "fill", "off");
        cr_assert_str_eq(take_calls(&scene), "fill 0 1048576\n");
        CTL_ENDS(0, scene.bus.option, "fill", "rate", "64M");
        cr_assert_str_eq(take_calls(&scene), "fill 1 67108864\n");
        CTL_ENDS(0, scene.bus.option, "fill", "rate", "0");
        cr_assert_str_eq(take_calls(&scene), "fill 1 0\n");
        CTL_ENDS(0, scene.bus.option, "fill", "off", "--json");
        SAYS("{ \"name\": \"web1\", \"fill\": false, \"fill_rate\": 1048576, \"complete\": false }\n");
        end(&scene);
}

TEST(answers, wait_names_the_broker_that_came_to_programs) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "wait");
        cr_assert_str_eq(ctl_out, "");
        CTL_ENDS(0, scene.bus.option, "wait", "--json");
        cr_assert_str_eq(ctl_out, "{ \"name\": \"web1\" }\n");
        end(&scene);
}

TEST(answers, disconnect_takes_a_number_or_a_name) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "disconnect", "7");
        cr_assert_str_eq(take_calls(&scene), "disconnect 7\n");
        CTL_ENDS(0, scene.bus.option, "disconnect", "disk");
        cr_assert_str_eq(take_calls(&scene), "disconnect 12\n");
        CTL_ENDS(0, scene.bus.option, "disconnect", "disk", "--json");
        cr_assert_str_eq(ctl_out, "{ \"name\": \"web1\", \"client\": 12 }\n");
        cr_assert_str_eq(take_calls(&scene), "disconnect 12\n");
        CTL_ENDS(1, scene.bus.option, "disconnect", "tape");
        COMPLAINS("no client of web1 that is connected is called tape");
        cr_assert_str_eq(take_calls(&scene), "");
        end(&scene);
}

/* Two regions show the memory's halves, with a hole between them. */
TEST(answers, prefetch_and_heal_cut_addresses_at_regions) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "prefetch", "0x1800", "8192");
        cr_assert_str_eq(take_calls(&scene), "prefetch 0 1 3\n");
        SAYS("3 pages asked for\n");
        CTL_ENDS(0, scene.bus.option, "prefetch", "0", "8G");
        cr_assert_str_eq(take_calls(&scene), "prefetch 0 0 2048\nprefetch 0 2048 2048\n");
        CTL_ENDS(0, scene.bus.option, "prefetch", "4096", "4096", "--memory=ram0");
        cr_assert_str_eq(take_calls(&scene), "prefetch 0 1 1\n");
        CTL_ENDS(1, scene.bus.option, "prefetch", "1G", "4096");
        COMPLAINS("0x40000000 lies in no region");
        CTL_ENDS(1, scene.bus.option, "prefetch", "0", "4096", "--memory=rom");
        COMPLAINS("no memory 'rom'");
        CTL_ENDS(0, scene.bus.option, "heal");
        cr_assert_str_eq(take_calls(&scene), "heal 0 0 4096\n");
        SAYS("3 pages no longer poisoned");
        CTL_ENDS(0, scene.bus.option, "heal", "4G", "4096", "--json");
        cr_assert_str_eq(take_calls(&scene), "heal 0 2048 1\n");
        SAYS("\"pages_healed\": 3");
        end(&scene);
}

TEST(answers, audit_ends_with_a_status_of_its_own_when_it_finds_something) {
        struct scene scene;

        begin(&scene, FAKE_FINE);
        CTL_ENDS(0, scene.bus.option, "audit");
        SAYS("web1: 4096 pages and 1 slice in flight looked at: the books balance\n");
        end(&scene);
        begin(&scene, FAKE_FINDINGS);
        CTL_ENDS(5, scene.bus.option, "audit");
        SAYS("present: ram0: counted 7, the map has 8\n");
        SAYS("1 finding;");
        CTL_ENDS(5, scene.bus.option, "audit", "--json");
        SAYS("\"findings\": [ { \"what\": \"present\", \"text\": \"ram0: counted 7, the map has 8\" } ]");
        end(&scene);
}

TEST(answers, a_refusal_names_who_may) {
        struct scene scene;

        begin(&scene, FAKE_REFUSING);
        CTL_ENDS(4, scene.bus.option, "audit");
        COMPLAINS("audit: not allowed (Not for you). It is for root and the user that the broker of web1 runs as");
        end(&scene);
}

TEST(answers, what_is_odd_is_an_error_for_every_command) {
        struct scene scene;

        begin(&scene, FAKE_ODD);
        CTL_ENDS(1, scene.bus.option, "status");
        CTL_ENDS(1, scene.bus.option, "clients");
        CTL_ENDS(1, scene.bus.option, "stuck");
        CTL_ENDS(1, scene.bus.option, "map");
        CTL_ENDS(1, scene.bus.option, "audit");
        CTL_ENDS(1, scene.bus.option, "--interval=0.01", "watch");
        CTL_ENDS(1, scene.bus.option, "heal");
        end(&scene);
}
