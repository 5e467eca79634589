/* SPDX-License-Identifier: MIT */
/*
 * A guest under KVM looks at every word of its memory and writes into every page, while brokers die at whatever moment
 * that is. In the end it looks at what it wrote.
 */
#include <stdio.h>
#include <unistd.h>

#include "tests/integration/basic/support.h"
#include "tests/integration/mini-vmm/fixture.h"
#include "tests/integration/restart/kill.h"

static void restore_over_random_kills(struct vmm_snapshot *snapshot, unsigned n_kills, const char *const options[]) {
        const uint64_t n_pages = snapshot->size / TEST_PAGE;
        struct vmm_process process;
        struct vmm_verdict verdict;
        struct test_broker broker;
        uint64_t state = 9;
        pb_client *observer;

        VMM_BROKER_START_SUPERVISED(&broker, snapshot, "--fill=off", "--fault-around=4K");
        observer = test_connect(&broker, PB_ROLE_OBSERVER);
        vmm_restore_start(&process, snapshot, &broker, options);
        for (uint64_t i = 0; i < n_kills; i++) {
                /* It is running, has come a part further, and has a part before it. (A VMM that connects just when a broker
                 * dies is refused, as by any server.) */
                cr_assert(EVENTUALLY(get_stats(observer).pages_present > n_pages * i / (n_kills + 1)), "kill %d: %d pages",
                          (int) i, (int) get_stats(observer).pages_present);
                (void) usleep((useconds_t) (next_random(&state) % 3000));
                test_broker_kill_served(&broker);
                test_broker_wait_next(&broker);
        }
        verdict = vmm_restore_wait(&process);
        vmm_verdict_assert_good(&verdict);
        (void) test_disconnect(observer);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(snapshot);
}

TEST(guest, finds_every_byte_over_random_kills) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 8 * MIB);
        restore_over_random_kills(&snapshot, 4 * kill_count(), (const char *const[]) { NULL });
}

TEST(guest, on_two_vcpus_finds_every_byte_over_random_kills) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 8 * MIB, "--seed=5");
        restore_over_random_kills(&snapshot, 2 * kill_count(),
                                  (const char *const[]) { "--vcpus=2", "--shards=2", "--check=some", NULL });
}

/* The broker dies while the VMM is in the middle of a call for the guest's new memory. */
static void plug_over_death_at(const char *point) {
        struct kill_order *order = kill_order_new();
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;
        struct test_broker broker;
        struct test_image dimm;
        char plug[192];

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB);
        test_image_make(&dimm, &(struct test_image_spec) { .seed = 72, .n_pages = 256 });
        VMM_BROKER_START_SUPERVISED(&broker, &snapshot, "--fill=off", test_memory("dimm0", &dimm, ",plugged=off"));
        (void) snprintf(plug, sizeof plug, "--plug=dimm0:%s", dimm.path);
        kill_order_give(order, point, 0);
        verdict = VMM_RESTORE(&snapshot, &broker, "--check=some", plug);
        vmm_verdict_assert_good(&verdict);
        cr_assert(kill_order_is_done(order), "nobody died at %s", point);
        test_broker_wait_next(&broker);
        test_broker_stop(&broker);
        test_image_unlink(&dimm);
        vmm_snapshot_unlink(&snapshot);
        kill_order_free(order);
}

TEST(guest, finds_memory_that_is_plugged_in_when_the_broker_dies_over_it) {
        plug_over_death_at("plug-told");
}

TEST(guest, loses_memory_when_the_broker_dies_over_it) {
        plug_over_death_at("unplug-hidden");
}
