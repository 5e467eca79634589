/* SPDX-License-Identifier: MIT */
/* Memory that is plugged in while the guest runs: it finds what is there, writes to it, and can do without it again. */
#include <stdio.h>

#include "tests/integration/mini-vmm/fixture.h"

#define DIMM_PAGES 256u

static void plug_under(const char *option) {
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;
        struct test_broker broker;
        struct test_image dimm;
        char plug[192];

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB);
        test_image_make(&dimm, &(struct test_image_spec) { .seed = 71, .n_pages = DIMM_PAGES });
        VMM_BROKER_START(&broker, &snapshot, NULL, option, test_memory("dimm0", &dimm, ",plugged=off"));
        (void) snprintf(plug, sizeof plug, "--plug=dimm0:%s", dimm.path);
        verdict = VMM_RESTORE(&snapshot, &broker, "--check=some", plug);
        vmm_verdict_assert_good(&verdict);
        test_broker_stop(&broker);
        test_image_unlink(&dimm);
        vmm_snapshot_unlink(&snapshot);
}

TEST(mini_vmm, guest_finds_memory_that_is_plugged_in_and_can_lose_it) {
        plug_under("--fill=off");
}

TEST(mini_vmm, guest_finds_memory_that_is_plugged_in_while_the_fill_runs) {
        plug_under("--fill=on");
}
