/* SPDX-License-Identifier: MIT */
/* Without a broker: what mini-vmm and its guest are worth as judges. */
#include <string.h>

#include "fixture.h"

TEST(mini_vmm, eager_restore_finds_its_memory) {
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;

        require_kvm();
        VMM_SNAPSHOT_MAKE(&snapshot, 8 * MIB, "--stride=2");
        verdict = VMM_RESTORE(&snapshot, NULL, "--vcpus=2");
        vmm_verdict_assert_good(&verdict);
        cr_assert(verdict.pages > 8 * MIB / TEST_PAGE - 64, "%s", verdict.text);
        vmm_snapshot_unlink(&snapshot);
}

/* Pages that the image has, pages that it leaves out, and the page that KVM writes its clock to. */
TEST(mini_vmm, guest_names_each_wrong_byte) {
        static const uint64_t wrong[] = { VMM_CLOCK_GPA + 9, 1 * MIB + 4000, VMM_HIGH_GPA + 5 * TEST_PAGE + 123,
                                          VMM_HIGH_GPA + 2 * MIB - TEST_PAGE + 8 };
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;

        require_kvm();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=2");
        for (size_t i = 0; i < ELEMENTS(wrong); i++)
                vmm_snapshot_flip(&snapshot, wrong[i]);
        verdict = VMM_RESTORE(&snapshot, NULL, "--order=ascending");
        cr_assert(verdict.status == 1, "%d: %s", verdict.status, verdict.text);
        cr_assert(verdict.mismatches == ELEMENTS(wrong) && verdict.n_first == ELEMENTS(wrong), "%s", verdict.text);
        for (size_t i = 0; i < ELEMENTS(wrong); i++) {
                const struct vmm_mismatch *m = &verdict.first[i];

                cr_expect(m->gpa == wrong[i] / 8 * 8, "0x%lx instead of 0x%lx", m->gpa, wrong[i]);
                cr_expect((m->expected ^ m->found) == 0xffull << wrong[i] % 8 * 8, "0x%lx", m->expected ^ m->found);
                cr_expect(m->found == vmm_snapshot_read(&snapshot, m->gpa));
        }
        vmm_snapshot_unlink(&snapshot);
}

TEST(mini_vmm, unfinished_snapshot_is_refused) {
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;
        char path[96];

        require_kvm();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=64");
        (void) snprintf(path, sizeof path, "%s/state", snapshot.dir);
        cr_assert(truncate(path, 100) == 0);
        verdict = VMM_RESTORE(&snapshot, NULL);
        cr_assert(verdict.status == 1 && strstr(verdict.text, path), "%d: %s", verdict.status, verdict.text);
        vmm_snapshot_unlink(&snapshot);
}
