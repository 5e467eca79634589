/* SPDX-License-Identifier: MIT */
/* What is wrong is said, and nobody ever runs on with other memory than it was left with. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "fixture.h"
#include "tests/lib/connect.h"

/* Every vCPU sees it; and only it. */
static void assert_each_vcpu_names(const struct vmm_verdict *verdict, unsigned n_vcpus, uint64_t gpa) {
        cr_assert(verdict->status == 1, "%d: %s", verdict->status, verdict->text);
        cr_assert(verdict->mismatches == n_vcpus && verdict->n_first == n_vcpus, "%s", verdict->text);
        for (unsigned i = 0; i < n_vcpus; i++) {
                cr_expect(verdict->first[i].vcpu == i && verdict->first[i].gpa == gpa / 8 * 8, "%s", verdict->text);
                cr_expect((verdict->first[i].expected ^ verdict->first[i].found) == 0xffull << gpa % 8 * 8);
        }
}

static void restore_with_flipped_byte(struct vmm_snapshot *snapshot, uint64_t gpa) {
        struct vmm_verdict verdict;
        struct test_broker broker;

        vmm_snapshot_flip(snapshot, gpa);
        VMM_BROKER_START(&broker, snapshot, NULL, "--fill=off");
        verdict = VMM_RESTORE(snapshot, &broker, "--vcpus=2");
        assert_each_vcpu_names(&verdict, 2, gpa);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(snapshot);
}

TEST(mini_vmm, flipped_byte_of_a_4k_page_is_reported) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB);
        restore_with_flipped_byte(&snapshot, VMM_HIGH_GPA + 300 * TEST_PAGE + 2047);
}

TEST(mini_vmm, flipped_byte_of_a_2m_page_is_reported) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        require_hugepages(2, HUGE_2M);
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--huge=2M");
        restore_with_flipped_byte(&snapshot, VMM_HIGH_GPA + 511 * TEST_PAGE + 13);
}

/* KVM writes its clock to this page when vCPU state is loaded, before any vCPU runs: had that write not waited,
 * all of the page would be zeros. */
TEST(mini_vmm, flipped_byte_beside_the_clock_is_reported) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=8");
        restore_with_flipped_byte(&snapshot, VMM_CLOCK_GPA + 1000);
}

TEST(mini_vmm, broker_with_other_regions_is_refused) {
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;
        struct test_broker broker;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=64");
        TEST_BROKER_START(&broker, "--memory=ram,size=4M");
        verdict = VMM_RESTORE(&snapshot, &broker);
        cr_assert(verdict.status == 1 && strstr(verdict.text, "the guest needs 0x200000 bytes at 0x0"), "%s",
                  verdict.text);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(&snapshot);
}

static void page_cannot_be_read(const char *option, struct vmm_verdict *ret) {
        struct vmm_snapshot snapshot;
        struct test_broker broker;
        struct test_image image;
        struct test_gate gate;

        require_kvm();
        require_uffd();
        require_fuse();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=8");
        vmm_gate_start(&gate, &image, &snapshot);
        test_gate_fail(&gate, MIB, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        VMM_BROKER_START(&broker, &snapshot, &gate, "--source-retries=0", option);
        *ret = VMM_RESTORE(&snapshot, &broker, "--check=some");
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        vmm_snapshot_unlink(&snapshot);
}

/* The vCPU keeps waiting rather than go on with zeros. */
TEST(mini_vmm, page_that_cannot_be_read_ends_the_guest) {
        struct vmm_verdict verdict;

        page_cannot_be_read("--on-error=wait", &verdict);
        cr_assert(verdict.status == 1 && strstr(verdict.text, "a page that will not come"), "%d: %s", verdict.status,
                  verdict.text);
}

/* It dies of SIGBUS; or, where KVM emulates the access, of a KVM_EXIT_MMIO at an address that has memory; or sees in the
 * counters that a page is lost. It does not run on with other bytes. */
TEST(mini_vmm, page_that_is_poisoned_ends_the_guest) {
        struct vmm_verdict verdict;

        require_kernel(6, 6);
        page_cannot_be_read("--on-error=poison", &verdict);
        cr_assert_neq(verdict.status, 0, "%s", verdict.text);
        cr_assert_eq(verdict.n_first, 0, "%s", verdict.text); /* no page was other than it should be */
}

/* The descriptor that the VMM keeps is what holds the vCPU where it is; the VMM says why. */
TEST(mini_vmm, death_of_the_broker_ends_the_guest) {
        struct vmm_snapshot snapshot;
        struct vmm_process process;
        struct vmm_verdict verdict;
        struct test_broker broker;
        struct test_image image;
        struct test_gate gate;

        require_kvm();
        require_uffd();
        require_fuse();
        VMM_SNAPSHOT_MAKE(&snapshot, 4 * MIB, "--stride=8");
        vmm_gate_start(&gate, &image, &snapshot);
        test_gate_hold(&gate, MIB, TEST_PAGE);
        VMM_BROKER_START(&broker, &snapshot, &gate, "--fill=off");
        vmm_restore_start(&process, &snapshot, &broker,
                          (const char *const[]) { "--check=some", "--reconnect=0", NULL });
        test_gate_wait_held(&gate, MIB, TEST_PAGE, 1);
        /* It cannot end before its read has: killed first, so that it does nothing more with the answer. */
        cr_assert(kill(broker.pid, SIGKILL) == 0);
        test_gate_release(&gate, MIB, TEST_PAGE);
        verdict = vmm_restore_wait(&process);
        cr_assert(verdict.status == 1 && strstr(verdict.text, "mini-vmm: --pagebroker: "), "%d: %s", verdict.status,
                  verdict.text);
        cr_assert(verdict.mismatches == UINT64_MAX, "the guest has come to a verdict: %s", verdict.text);
        test_broker_kill(&broker);
        test_gate_stop(&gate);
        vmm_snapshot_unlink(&snapshot);
}
