/* SPDX-License-Identifier: MIT */
/*
 * A guest under KVM looks at every word of its memory and writes into every page, while brokers die at whatever moment
 * that is. In the end it looks at what it wrote.
 */
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
