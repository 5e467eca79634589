/* SPDX-License-Identifier: MIT */
/* The broker dies in the middle of plugging a memory in, or of taking it out: the call ends as if nothing had happened. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "tests/integration/basic/support.h"
#include "tests/integration/restart/kill.h"

#define N_PAGES 256u
#define DIMM_GPA (1ull << 32)
#define DIMM_SIZE ((uint64_t) N_PAGES * TEST_PAGE)

static const struct pb_memory_region where = { .gpa = DIMM_GPA, .size = DIMM_SIZE };

static struct test_image image, dimm;
static struct test_broker broker;
static struct kill_order *order;
static pb_client *vmm, *device;

static void start(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 5, .n_pages = N_PAGES });
        test_image_make(&dimm, &(struct test_image_spec) { .seed = 6, .n_pages = N_PAGES });
        order = kill_order_new();
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { TEST_MEMORY("ram0", &image),
                                                                           test_memory("dimm0", &dimm, ",plugged=off"),
                                                                           "--fill=off", "--release-timeout=600", NULL },
                                   });
        vmm = test_connect(&broker, PB_ROLE_VMM);
        device = test_connect(&broker, PB_ROLE_DEVICE);
}

static void stop(void) {
        vmm = test_disconnect(vmm);
        device = test_disconnect(device);
        test_broker_stop(&broker);
        test_image_unlink(&image);
        test_image_unlink(&dimm);
        kill_order_free(order);
}

static void die_at(const char *point) {
        kill_order_give(order, point, 0);
}

static void has_died(const char *point) {
        cr_assert(EVENTUALLY(kill_order_is_done(order)), "nobody died at %s", point);
        test_broker_wait_next(&broker);
}

static unsigned await_region(pb_client *client) {
        struct pb_event event = {};
        int r = 0;

        cr_assert(EVENTUALLY((r = pb_get_event(client, &event)) != 0));
        cr_assert_eq(r, 1, "%s", pb_explain(client));
        cr_assert_eq(event.type, PB_EVENT_REGION_ADDED);
        return event.region;
}

static void let_go_and_remove(unsigned of_vmm, unsigned of_device) {
        cr_assert_eq(pb_release_region(vmm, of_vmm), 0, "%s", pb_explain(vmm));
        cr_assert_eq(pb_release_region(device, of_device), 0, "%s", pb_explain(device));
        cr_assert_eq(pb_remove_memory(vmm, 1), 0, "%s", pb_explain(vmm));
}

static void plug_and_die_at(const char *point) {
        unsigned of_vmm, of_device;

        start();
        die_at(point);
        cr_assert_eq(pb_add_memory(vmm, "dimm0", &where, 1), 1, "at %s: %s", point, pb_explain(vmm));
        has_died(point);
        of_vmm = await_region(vmm);
        of_device = await_region(device);
        test_ensure_and_check(vmm, &dimm, DIMM_GPA, DIMM_SIZE);
        test_ensure_and_check(device, &dimm, DIMM_GPA, DIMM_SIZE);
        let_go_and_remove(of_vmm, of_device);
        stop();
}

TEST(plug, broker_dies_before_it_has_entered_a_new_memory) {
        plug_and_die_at("plug-begun");
}

TEST(plug, broker_dies_before_it_has_told_anybody) {
        plug_and_die_at("plug-entered");
}

TEST(plug, broker_dies_before_it_has_answered) {
        plug_and_die_at("plug-told");
}

static void remove_and_die_at(const char *point) {
        unsigned of_vmm, of_device;

        start();
        cr_assert_eq(pb_add_memory(vmm, "dimm0", &where, 1), 1, "%s", pb_explain(vmm));
        of_vmm = await_region(vmm);
        of_device = await_region(device);
        test_ensure_and_check(device, &dimm, DIMM_GPA, DIMM_SIZE);
        die_at(point);
        let_go_and_remove(of_vmm, of_device);
        has_died(point);
        /* It has left for good, and comes back empty. */
        cr_assert_eq(pb_remove_memory(vmm, 1), -ENOENT);
        cr_assert_eq(pb_add_memory(vmm, "dimm0", &where, 1), 1, "%s", pb_explain(vmm));
        of_vmm = await_region(vmm);
        cr_assert_eq(pb_ensure(vmm, DIMM_GPA, DIMM_SIZE, PB_READ), 0, "%s", pb_explain(vmm));
        cr_assert(is_zero(get_region(vmm, of_vmm).addr, DIMM_SIZE));
        stop();
}

TEST(plug, broker_dies_when_a_memory_is_to_leave) {
        remove_and_die_at("unplug-entered");
}

TEST(plug, broker_dies_when_nobody_holds_it_any_more) {
        remove_and_die_at("unplug-hidden");
}

TEST(plug, broker_dies_when_its_pages_have_been_given_back) {
        remove_and_die_at("unplug-cleared");
}

TEST(plug, broker_dies_when_it_has_left) {
        remove_and_die_at("unplug-left");
}

/* Of a resumed session, twice: what it holds is in the ledger under both, and then under one. */
TEST(plug, broker_dies_when_a_holder_has_come_back) {
        unsigned of_vmm, of_device;

        start();
        cr_assert_eq(pb_add_memory(vmm, "dimm0", &where, 1), 1, "%s", pb_explain(vmm));
        of_vmm = await_region(vmm);
        of_device = await_region(device);
        die_at("holder-entered");
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        test_ensure_and_check(device, &dimm, DIMM_GPA, DIMM_SIZE);
        has_died("holder-entered");
        test_ensure_and_check(vmm, &dimm, DIMM_GPA, DIMM_SIZE);
        let_go_and_remove(of_vmm, of_device);
        stop();
}

TEST(plug, broker_dies_when_it_has_taken_over_a_holder) {
        unsigned of_vmm, of_device;

        start();
        cr_assert_eq(pb_add_memory(vmm, "dimm0", &where, 1), 1, "%s", pb_explain(vmm));
        of_vmm = await_region(vmm);
        of_device = await_region(device);
        die_at("takeover-holder");
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert(kill_order_is_done(order));
        test_ensure_and_check(device, &dimm, DIMM_GPA, DIMM_SIZE);
        let_go_and_remove(of_vmm, of_device);
        stop();
}
