/* SPDX-License-Identifier: MIT */
/* --on-error: what becomes of a thread that waits through userfaultfd for a page that cannot be had. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/failure/failure.h"
#include "tests/integration/peer/peer.h"

#define BAD 7u /* the page */

/* ---- in the child ---- */

/* The bad page is SIGBUS and EFAULT, the others come; when it can be had again, it has its bytes. */
static int meet_poison(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client), *bad = memory + BAD * TEST_PAGE;
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC), fds[2];

        CHILD_CHECK(null >= 0 && pipe2(fds, O_CLOEXEC) == 0);
        CHILD_CHECK(!peer_can_load(bad));
        CHILD_CHECK(write(fds[1], bad, 10) < 0 && errno == EFAULT);
        CHILD_CHECK(!peer_can_load(bad));
        CHILD_CHECK(madvise(bad, TEST_PAGE, MADV_DONTNEED) == 0 || task->n == 1); /* a mark that is zapped comes back */
        CHILD_CHECK(!peer_can_load(bad));
        if (task->n == 0)
                CHILD_CHECK(content_is_right(client, task->images, 100 * TEST_PAGE, 100 * TEST_PAGE));
        CHILD_CHECK(step_tell(task->steps));
        CHILD_CHECK(step_await(task->steps));
        CHILD_CHECK(EVENTUALLY(peer_can_load(bad)));
        if (task->page == 0)
                CHILD_CHECK(content_is_right(client, task->images, BAD * TEST_PAGE, TEST_PAGE));
        else
                CHILD_CHECK(is_zero(bad, TEST_PAGE));
        return 0;
}

/* ---- poison ---- */

static void heal_everything(struct failure *f) {
        test_gate_open(&f->gate);
        cr_assert_geq(failure_heal(f, 0, 0), 1);
}

static void discard_it(struct failure *f) {
        cr_assert_eq(pb_discard(f->client, BAD * TEST_PAGE, TEST_PAGE), 0);
}

/* The last page comes; the userfaultfd goes, and with it the way to take a mark away. */
static void discard_last(struct failure *f) {
        test_gate_open(&f->gate);
        cr_assert_eq(pb_set_fill(f->client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f->client).pages_present == FAILURE_PAGES - 1));
        discard_it(f);
        cr_assert(EVENTUALLY(get_stats(f->client).complete));
}

/* ---- the broker that made the mark dies: the next one knows of it ---- */

static void kill_it(struct failure *f) {
        test_gate_open(&f->gate);
        test_broker_kill_served(&f->broker);
        test_broker_wait_next(&f->broker);
}

/* As an upgrade does it. */
static void end_it(struct failure *f) {
        test_gate_open(&f->gate);
        cr_assert_eq(kill(f->broker.served, SIGTERM), 0);
        test_broker_wait_next(&f->broker);
}

static void kill_and_complete(struct failure *f) {
        kill_it(f);
        cr_assert_eq(pb_set_fill(f->client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f->client).complete));
}

/* Each of them tries by itself, and fails. */
static void kill_in_vain(struct failure *f) {
        for (unsigned i = 0; i < 2; i++) {
                test_broker_kill_served(&f->broker);
                test_broker_wait_next(&f->broker);
                cr_assert(EVENTUALLY(get_stats(f->client).pages_poisoned > 0));
        }
}

static void kill_and_heal(struct failure *f) {
        kill_in_vain(f);
        heal_everything(f);
}

/* What is published then is a hole of the memfd. */
static void kill_and_discard(struct failure *f) {
        kill_in_vain(f);
        discard_it(f);
}

static void kill_and_discard_last(struct failure *f) {
        kill_in_vain(f);
        discard_last(f);
}

/* ---- all of it ---- */

struct meeting {
        const char *memory, *option;
        void (*mend)(struct failure *f);
        bool huge, zeros, supervised;
};

static void meet(const struct meeting *how) {
        struct peer_task task = { .run = meet_poison, .n = how->huge, .page = how->zeros };
        struct steps steps;
        struct failure f;
        pid_t pid;

        require_uffd();
        require_kernel(6, 6);
        steps = steps_new();
        if (how->supervised)
                failure_start_supervised(&f, how->memory ?: "", "--on-error=poison");
        else
                failure_start(&f, how->memory ?: "", "--on-error=poison", how->option ?: "--seccomp=on");
        failure_break(&f, BAD);
        task.broker = &f.broker;
        task.images = f.images;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        how->mend(&f);
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        failure_stop(&f);
}

#define MEET(...) meet(&(struct meeting) { __VA_ARGS__ })

TEST(policy, poisoned_page_is_sigbus_until_it_is_healed) {
        MEET(.mend = heal_everything);
}

TEST(policy, poisoned_huge_page_is_sigbus_until_it_is_healed) {
        require_hugepages(2, HUGE_2M);
        MEET(.mend = heal_everything, .memory = ",huge=2M", .huge = true);
}

TEST(policy, mark_does_not_outlive_the_completion) {
        MEET(.mend = discard_last, .option = "--source-retries=1", .zeros = true);
}

/* Nobody heals it: the VMM says that it shall be zeros. */
TEST(policy, poisoned_page_that_is_discarded_is_zeros) {
        MEET(.mend = discard_it, .zeros = true);
}

TEST(policy, mark_does_not_outlive_a_restart) {
        MEET(.mend = kill_it, .supervised = true);
}

TEST(policy, mark_on_a_huge_page_does_not_outlive_a_restart) {
        require_hugepages(2, HUGE_2M);
        MEET(.mend = kill_it, .memory = ",huge=2M", .huge = true, .supervised = true);
}

TEST(policy, mark_does_not_outlive_an_orderly_restart) {
        MEET(.mend = end_it, .supervised = true);
}

TEST(policy, mark_does_not_outlive_a_restart_and_the_completion) {
        MEET(.mend = kill_and_complete, .supervised = true);
}

TEST(policy, mark_of_an_earlier_broker_goes_when_it_is_healed) {
        MEET(.mend = kill_and_heal, .supervised = true);
}

TEST(policy, mark_of_an_earlier_broker_goes_when_its_page_is_discarded) {
        MEET(.mend = kill_and_discard, .zeros = true, .supervised = true);
}

TEST(policy, mark_of_an_earlier_broker_goes_when_its_page_is_the_last_and_discarded) {
        MEET(.mend = kill_and_discard_last, .zeros = true, .supervised = true);
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
