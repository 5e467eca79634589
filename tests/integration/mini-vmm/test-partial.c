/* SPDX-License-Identifier: MIT */
/* The guest beside a linked client. */
#include <string.h>

#include "fixture.h"
#include "tests/lib/connect.h"

/* What the guest has not changed yet, or never will: a page without the marks. */
static void ensure_and_check(pb_client *client, const struct vmm_snapshot *snapshot, uint64_t gpa) {
        const uint64_t *words = pb_translate(client, gpa, TEST_PAGE);
        unsigned last = VMM_PAGE_WORDS - 1;

        test_ensure(client, gpa, TEST_PAGE, PB_READ);
        cr_assert(words[0] == vmm_snapshot_read(snapshot, gpa), "0x%lx: 0x%lx", gpa, words[0]);
        cr_assert(words[last] == vmm_snapshot_read(snapshot, gpa + 8ul * last), "0x%lx: 0x%lx", gpa, words[last]);
}

/* A 4 KiB page of a huge page is read by a linked client, another one written; then the guest looks at all 512. What it
 * has to find is the client's word, and nothing else that is not as it was: a fetch of the whole huge page over what is
 * there would lose the word, a huge page shown when only two of its pages were there would be full of zeros. */
TEST(mini_vmm, guest_reads_a_2m_page_that_a_client_has_begun) {
        const uint64_t huge = VMM_HIGH_GPA + 2 * MIB, taken = huge + 5 * TEST_PAGE, written = huge + 77 * TEST_PAGE;
        const uint64_t word = written + 80;
        struct vmm_snapshot snapshot;
        struct vmm_verdict verdict;
        struct test_broker broker;
        pb_client *client;

        require_kvm();
        require_uffd();
        require_hugepages(4, HUGE_2M);
        VMM_SNAPSHOT_MAKE(&snapshot, 8 * MIB, "--huge=2M");
        VMM_BROKER_START(&broker, &snapshot, NULL, "--fill=off");

        client = test_connect(&broker, PB_ROLE_DEVICE);
        ensure_and_check(client, &snapshot, taken);
        test_ensure(client, written, TEST_PAGE, PB_WRITE);
        memset(pb_translate(client, word, 8), 0xa5, 8);
        cr_assert(pb_is_present(client, taken, TEST_PAGE) && pb_is_present(client, written, TEST_PAGE));
        cr_assert(!pb_is_present(client, huge, HUGE_2M) && !pb_is_present(client, huge + MIB, TEST_PAGE));

        verdict = VMM_RESTORE(&snapshot, &broker);
        cr_assert(verdict.status == 1 && verdict.mismatches == 1, "%d: %s", verdict.status, verdict.text);
        cr_assert(verdict.first[0].gpa == word && verdict.first[0].found == 0xa5a5a5a5a5a5a5a5, "%s", verdict.text);
        cr_assert(verdict.first[0].expected == vmm_snapshot_read(&snapshot, word), "%s", verdict.text);
        cr_assert(pb_is_present(client, huge, HUGE_2M));
        (void) test_disconnect(client);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(&snapshot);
}

/* The same pages are wanted by ring and by userfaultfd, in the same order and at the same time. */
TEST(mini_vmm, guest_and_client_want_the_same_pages) {
        struct vmm_snapshot snapshot;
        struct vmm_process process;
        struct vmm_verdict verdict;
        struct test_broker broker;
        pb_client *client;

        require_kvm();
        require_uffd();
        VMM_SNAPSHOT_MAKE(&snapshot, 8 * MIB, "--stride=2");
        VMM_BROKER_START(&broker, &snapshot, NULL, "--fill=off", "--fault-around=4K");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        vmm_restore_start(&process, &snapshot, &broker,
                          (const char *const[]) { "--order=ascending", "--check=some", NULL });
        for (uint64_t offset = MIB; offset < snapshot.size; offset += TEST_PAGE)
                ensure_and_check(client, &snapshot,
                                 offset < snapshot.low_size ? offset : VMM_HIGH_GPA + offset - snapshot.low_size);
        verdict = vmm_restore_wait(&process);
        vmm_verdict_assert_good(&verdict);
        (void) test_disconnect(client);
        test_broker_stop(&broker);
        vmm_snapshot_unlink(&snapshot);
}
