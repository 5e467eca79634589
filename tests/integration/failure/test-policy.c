/* SPDX-License-Identifier: MIT */
/* --on-error: what becomes of a thread that waits through userfaultfd for a page that cannot be had. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/failure/failure.h"
#include "tests/integration/peer/peer.h"

#define BAD 7u /* the page */

/* ---- in the child ---- */

static sigjmp_buf after_sigbus;

static void on_sigbus(int signal) {
        siglongjmp(after_sigbus, 1);
}

/* Is the page's first byte there, or is it SIGBUS? */
static bool can_load(const volatile char *addr) {
        struct sigaction action = { .sa_handler = on_sigbus };
        volatile bool loaded = false;

        (void) sigaction(SIGBUS, &action, NULL);
        if (sigsetjmp(after_sigbus, 1) == 0) {
                (void) *addr;
                loaded = true;
        }
        return loaded;
}

/* The bad page is SIGBUS and EFAULT, the others come; when it can be had again, it has its bytes. */
static int meet_poison(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client), *bad = memory + BAD * TEST_PAGE;
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC), fds[2];

        CHILD_CHECK(null >= 0 && pipe2(fds, O_CLOEXEC) == 0);
        CHILD_CHECK(!can_load(bad));
        CHILD_CHECK(write(fds[1], bad, 10) < 0 && errno == EFAULT);
        CHILD_CHECK(!can_load(bad));
        CHILD_CHECK(madvise(bad, TEST_PAGE, MADV_DONTNEED) == 0 || task->n == 1); /* a mark that is zapped comes back */
        CHILD_CHECK(!can_load(bad));
        if (task->n == 0)
                CHILD_CHECK(content_is_right(client, task->images, 100 * TEST_PAGE, 100 * TEST_PAGE));
        CHILD_CHECK(step_tell(task->steps));
        CHILD_CHECK(step_await(task->steps));
        CHILD_CHECK(EVENTUALLY(can_load(bad)));
        if (task->page == 0)
                CHILD_CHECK(content_is_right(client, task->images, BAD * TEST_PAGE, TEST_PAGE));
        else
                CHILD_CHECK(is_zero(bad, TEST_PAGE));
        return 0;
}

/* ---- poison ---- */

static void heal_everything(struct failure *f) {
        cr_assert_geq(failure_heal(f, 0, 0), 1);
}

static void discard_it(struct failure *f) {
        cr_assert_eq(pb_discard(f->client, BAD * TEST_PAGE, TEST_PAGE), 0);
}

/* The last page comes; the userfaultfd goes, and with it the way to take a mark away. */
static void discard_last(struct failure *f) {
        cr_assert_eq(pb_set_fill(f->client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f->client).pages_present == FAILURE_PAGES - 1));
        discard_it(f);
        cr_assert(get_stats(f->client).complete);
}

/* Only the killed one knew where the mark is. */
static void kill_and_complete(struct failure *f) {
        test_broker_kill_served(&f->broker);
        test_broker_wait_next(&f->broker);
        cr_assert_eq(pb_set_fill(f->client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f->client).complete));
}

static void meet(const char *more, const char *option, bool huge, void (*mend)(struct failure *f)) {
        struct peer_task task = { .run = meet_poison, .n = huge };
        struct steps steps;
        struct failure f;
        pid_t pid;

        require_uffd();
        require_kernel(6, 6);
        steps = steps_new();
        if (mend == kill_and_complete)
                failure_start_supervised(&f, "--on-error=poison");
        else
                failure_start(&f, more, "--on-error=poison", option);
        failure_break(&f, BAD);
        task.broker = &f.broker;
        task.images = f.images;
        task.steps = steps.child;
        task.page = mend == discard_it || mend == discard_last; /* zeros */
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        test_gate_open(&f.gate);
        mend(&f);
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        failure_stop(&f);
}

TEST(policy, poisoned_page_is_sigbus_until_it_is_healed) {
        meet("", "--seccomp=on", false, heal_everything);
}

TEST(policy, poisoned_huge_page_is_sigbus_until_it_is_healed) {
        require_hugepages(2, HUGE_2M);
        meet(",huge=2M", "--seccomp=on", true, heal_everything);
}

TEST(policy, mark_does_not_outlive_the_completion) {
        meet("", "--source-retries=1", false, discard_last);
}

/* Nobody heals it: the VMM says that it shall be zeros. */
TEST(policy, poisoned_page_that_is_discarded_is_zeros) {
        meet("", "--seccomp=on", false, discard_it);
}

TEST(policy, mark_does_not_outlive_a_restart_and_the_completion) {
        meet("", "", false, kill_and_complete);
}

TEST(policy, linked_clients_get_eio_beside_a_poisoned_peer) {
        struct failure f;

        require_kernel(6, 6);
        failure_start(&f, "", "--on-error=poison", "--seccomp=on");
        failure_break(&f, BAD);
        cr_assert_eq(pb_ensure(f.client, BAD * TEST_PAGE, 1, PB_READ), -EIO);
        failure_stop(&f);
}

/* ---- stop ---- */

TEST(policy, supervisor_is_told_to_stop_the_vm) {
        struct peer_task task = { .run = peer_tell_and_read, .page = BAD, .n = 1 };
        char told[4096];
        struct steps steps;
        struct failure f;
        siginfo_t info;
        pid_t pid;

        require_uffd();
        steps = steps_new();
        failure_start(&f, "", "--on-error=stop", "--seccomp=on");
        failure_break(&f, BAD);
        f.client = test_disconnect(f.client);
        task.broker = &f.broker;
        task.images = f.images;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        cr_assert_eq(test_broker_wait(&f.broker, told, sizeof told), 3);
        cr_assert(strstr(told, "STOPPING=1\n") && strstr(told, "ERRNO=5\n"), "%s", told);
        cr_assert(strstr(told, "STATUS=the VM cannot go on: memory ram0: page 7 (offset 0x7000)"), "%s", told);
        cr_assert(strstr(told, f.gate.path) && strstr(told, "Input/output error"), "%s", told);
        /* Its thread is not released: it does not end by itself, with whatever bytes. */
        cr_assert_eq(waitid(P_PID, (id_t) pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
        (void) kill(pid, SIGKILL);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        steps_done(&steps);
        test_gate_stop(&f.gate);
        test_image_unlink(&f.image);
}

TEST(policy, linked_clients_do_not_stop_the_vm) {
        struct failure f;

        failure_start(&f, "", "--on-error=stop", "--seccomp=on");
        failure_break(&f, BAD);
        cr_assert_eq(pb_ensure(f.client, BAD * TEST_PAGE, 1, PB_READ), -EIO);
        test_gate_open(&f.gate);
        cr_assert_eq(failure_heal(&f, 0, 0), 1);
        cr_assert(failure_page_is_right(&f, BAD));
        failure_stop(&f);
}
