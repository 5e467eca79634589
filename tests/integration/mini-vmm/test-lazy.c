/* SPDX-License-Identifier: MIT */
/* KVM's accesses wait for the broker: every word of every page is looked at by the guest. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/cleanup.h"
#include "fixture.h"
#include "tests/lib/connect.h"

#define SIZE (8 * MIB)

/* It was vCPUs that asked for the pages. And few were there when the guest went on, if the vCPU that says so is the only
 * one: others go on while it counts, and how far they get is the scheduler's business. */
static void assert_lazy(const struct vmm_verdict *verdict) {
        cr_assert(verdict->pages_data > 0, "%s", verdict->text);
        cr_assert(verdict->vcpus > 1 || verdict->present_at_alive * 2 < verdict->pages_data, "%s", verdict->text);
        cr_assert(verdict->faults_peer > 0 && verdict->faults_linked == 0, "%s", verdict->text);
}

static void restore_lazily(struct vmm_snapshot *snapshot, const char *fill, const char *const options[]) {
        struct test_broker broker;
        struct vmm_verdict verdict;

        VMM_BROKER_START(&broker, snapshot, NULL, fill);
        verdict = vmm_restore(snapshot, &broker, options);
        vmm_verdict_assert_good(&verdict);
        assert_lazy(&verdict);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(snapshot);
}
#define RESTORE_LAZILY(snapshot, fill, ...) \
        restore_lazily((snapshot), (fill), (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })

TEST(mini_vmm, vcpu_faults_in_4k_pages_and_holes) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, SIZE, "--stride=2");
        RESTORE_LAZILY(&snapshot, "--fill=off");
}

TEST(mini_vmm, vcpu_faults_while_the_fill_runs) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, SIZE, "--seed=7");
        RESTORE_LAZILY(&snapshot, "--fill=off", "--fill-after-alive", "--shards=3");
}

TEST(mini_vmm, vcpu_faults_in_2m_pages) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        require_hugepages(SIZE / HUGE_2M, HUGE_2M);
        VMM_SNAPSHOT_MAKE(&snapshot, SIZE, "--stride=2", "--huge=2M");
        RESTORE_LAZILY(&snapshot, "--fill=off");
}

TEST(mini_vmm, four_vcpus_fault_on_the_same_pages) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, SIZE, "--stride=4");
        RESTORE_LAZILY(&snapshot, "--fill=off", "--vcpus=4", "--check=some", "--order=ascending");
}

TEST(mini_vmm, two_vcpus_fault_on_the_same_2m_pages) {
        struct vmm_snapshot snapshot;

        require_kvm();
        require_uffd();
        require_hugepages(SIZE / HUGE_2M, HUGE_2M);
        VMM_SNAPSHOT_MAKE(&snapshot, SIZE, "--huge=2M");
        RESTORE_LAZILY(&snapshot, "--fill=off", "--vcpus=2", "--check=some", "--shards=2");
}

/* KVM has threads of its own in the process. */
static bool thread_is_vcpu(pid_t pid, pid_t tid) {
        _cleanup_fclose_ FILE *file = NULL;
        char path[64], name[16] = "";

        (void) snprintf(path, sizeof path, "/proc/%d/task/%d/comm", (int) pid, (int) tid);
        file = fopen(path, "re");
        return file && fgets(name, sizeof name, file) && strncmp(name, "vcpu", 4) == 0;
}

/* Asleep inside of KVM_RUN: it waits for a page. */
static bool thread_is_waiting_vcpu(pid_t pid, pid_t tid) {
        char state = test_thread_state(pid, tid);

        return (state == 'S' || state == 'D') && test_thread_syscall(pid, tid) == SYS_ioctl && thread_is_vcpu(pid, tid);
}

static unsigned count_waiting_vcpus(pid_t pid) {
        char path[64];
        unsigned n = 0;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) pid);
        dir = opendir(path);
        if (!dir)
                return 0;
        for (struct dirent *entry; (entry = readdir(dir));)
                if (entry->d_name[0] != '.' && thread_is_waiting_vcpu(pid, (pid_t) strtol(entry->d_name, NULL, 10)))
                        n++;
        (void) closedir(dir);
        return n;
}

/* One fetch, two sleepers on it. */
TEST(mini_vmm, two_vcpus_wait_for_one_page) {
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
                          (const char *const[]) { "--vcpus=2", "--order=ascending", "--check=some", NULL });
        test_gate_wait_held(&gate, MIB, TEST_PAGE, 1);
        cr_assert(EVENTUALLY(count_waiting_vcpus(process.pid) == 2));
        cr_assert(test_gate_count(&gate, MIB, TEST_PAGE) == 1);
        test_gate_release(&gate, MIB, TEST_PAGE);
        verdict = vmm_restore_wait(&process);
        vmm_verdict_assert_good(&verdict);
        assert_lazy(&verdict);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        vmm_snapshot_unlink(&snapshot);
}
