/* SPDX-License-Identifier: MIT */
/* examples/supervisor: what it takes for a broken broker, when it pauses, and the VMM that it starts. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "tests/integration/peer/peer.h"
#include "tests/integration/restart/kill.h"
#include "tests/lib/gate.h"
#include "tests/lib/thread.h"

#define N_PAGES 512u
#define HALF (N_PAGES / 2 * TEST_PAGE)

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, const char *option) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 371, .n_pages = N_PAGES });
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .supervisor = option ? (const char *const[]) { option, NULL } : NULL,
                                          .args = (const char *const[]) { TEST_MEMORY("ram0", &image), "--fill=off", NULL },
                                  });
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

static void reads_everything(const struct test_broker *broker) {
        pb_client *client = test_connect(broker, PB_ROLE_DEVICE);

        cr_assert(ensure_is_right(client, images, 0, 2 * HALF));
        client = test_disconnect(client);
}

/* ---- the watchdog ---- */

#define WATCHDOG "--watchdog=6"

/*
 * The pager alone: all other threads of the broker go on, and its socket stays open. Where this machine stands still for so long
 * that the watchdog takes a broker for a broken one, that of the next one.
 */
static pid_t stop_pager(struct test_broker *broker) {
        for (;;) {
                pid_t pager = -1;
                int r = -ESRCH;

                /* It gives itself the name. */
                cr_assert(EVENTUALLY((pager = thread_find(broker->served, "pager")) > 0 || kill(broker->served, 0) < 0));
                if (pager > 0)
                        r = thread_stop(pager);
                if (r == 0)
                        return pager;
                if (r != -ESRCH)
                        cr_skip_test("ptrace() is not allowed here: %s", strerror(-r));
                test_broker_wait_next(broker);
        }
}

static void is_replaced(struct test_broker *broker, pid_t pager) {
        cr_assert(test_broker_will_log(broker, "has not said WATCHDOG=1"));
        cr_assert_eq(thread_wait_killed(pager), 0);
        test_broker_wait_next(broker);
        cr_assert(test_broker_logged(broker, "the pager makes no progress"));
}

TEST(supervisor, watchdog_replaces_a_broker_whose_pager_hangs_under_a_linked_client) {
        struct ensure_call call;
        struct test_broker broker;
        pb_client *client;
        pid_t pager;

        start(&broker, WATCHDOG);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, HALF));
        pager = stop_pager(&broker);
        ensure_start(&call, client, HALF, HALF, PB_READ);
        is_replaced(&broker, pager);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(client, images, 0, 2 * HALF));
        client = test_disconnect(client);
        stop(&broker);
}

static int read_halves(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(content_is_right(client, task->images, 0, HALF));
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        CHILD_CHECK(step_tell(task->steps));
        CHILD_CHECK(content_is_right(client, task->images, HALF, HALF));
        return 0;
}

/* Its own thread of the broker runs, and asks the pager for cold pages. */
TEST(supervisor, watchdog_replaces_a_broker_whose_pager_hangs_under_a_userfaultfd) {
        struct peer_task task = { .images = images, .run = read_halves };
        struct test_broker broker;
        struct test_gate gate;
        struct steps steps;
        pid_t pager, pid;

        require_uffd();
        require_fuse();
        steps = steps_new();
        test_image_make(&image, &(struct test_image_spec) { .seed = 372, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .supervisor = (const char *const[]) { WATCHDOG, NULL },
                                           .args = (const char *const[]) { test_gate_memory("ram0", &gate, ""), "--fill=off",
                                                                           "--fault-around=4K", NULL },
                                   });
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        pager = stop_pager(&broker);
        cr_assert(step_tell(steps.parent) && step_await(steps.parent));
        is_replaced(&broker, pager);
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

/* ---- pauses ---- */

/* However fast they follow each other: each of these brokers served somebody, and a VM waits for the next. */
TEST(supervisor, makes_no_pause_after_brokers_that_were_ready) {
        struct test_broker broker;

        start(&broker, NULL);
        for (unsigned i = 0; i < 20; i++) {
                test_broker_kill_served(&broker);
                test_broker_wait_next(&broker);
        }
        cr_assert_eq(broker.n_starts, 21);
        cr_assert(!test_broker_logged(&broker, "were never ready"));
        reads_everything(&broker);
        stop(&broker);
}

/* A process id comes again some day, and may be a broker's again. */
TEST(supervisor, keeps_nothing_of_brokers_that_have_ended) {
        struct test_broker broker;
        int n;

        start(&broker, NULL);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        n = test_descriptors_count(broker.pid);
        for (unsigned i = 0; i < 10; i++) {
                test_broker_kill_served(&broker);
                test_broker_wait_next(&broker);
        }
        /* What the last one has taken out of the store may be closed a moment later. */
        cr_assert(EVENTUALLY(test_descriptors_count(broker.pid) <= n), "%d descriptors, %d before",
                  test_descriptors_count(broker.pid), n);
        stop(&broker);
}

/* The served one is killed, and `n` after it die on their way. */
static void die_on_the_way(struct test_broker *broker, int n) {
        struct kill_order *order = kill_order_new();

        start(broker, NULL);
        (void) snprintf(order->name, sizeof order->name, "takeover-waited");
        atomic_store(&order->budget, n);
        test_broker_kill_served(broker);
        test_broker_wait_next(broker);
        cr_assert_eq(atomic_load(&order->budget), 0);
        reads_everything(broker);
        kill_order_free(order);
}

TEST(supervisor, makes_no_pause_after_five_that_were_never_ready) {
        struct test_broker broker;

        die_on_the_way(&broker, 5);
        cr_assert(!test_broker_logged(&broker, "were never ready"));
        stop(&broker);
}

TEST(supervisor, pauses_after_more_that_were_never_ready_and_goes_on) {
        struct test_broker broker;

        die_on_the_way(&broker, 7);
        cr_assert(test_broker_logged(&broker, "6 brokers in a row were never ready; the next one is started in 100 ms"));
        cr_assert(test_broker_logged(&broker, "7 brokers in a row were never ready; the next one is started in 200 ms"));
        stop(&broker);
}

/* ---- the VMM ---- */

/* A shell that says that it runs, and waits for a line. */
struct vmm {
        char said[96], fifo[96], option[320];
};

static void vmm_make(struct vmm *vmm, const char *end) {
        const char *dir = getenv("TMPDIR") ?: "/tmp";

        (void) snprintf(vmm->said, sizeof vmm->said, "%s/vmm-said", dir);
        (void) snprintf(vmm->fifo, sizeof vmm->fifo, "%s/vmm-fifo", dir);
        cr_assert(mkfifo(vmm->fifo, 0600) == 0);
        (void) snprintf(vmm->option, sizeof vmm->option, "--vmm=echo started >>%s; read line <%s; %s", vmm->said, vmm->fifo, end);
}

static void vmm_done(struct vmm *vmm) {
        (void) unlink(vmm->said);
        (void) unlink(vmm->fifo);
}

static bool vmm_said(const struct vmm *vmm, const char *expected) {
        _cleanup_fclose_ FILE *f = fopen(vmm->said, "re");
        char text[256] = "";

        return f && fread(text, 1, sizeof text - 1, f) > 0 && strcmp(text, expected) == 0;
}

static void vmm_tell(const struct vmm *vmm) {
        FILE *f = fopen(vmm->fifo, "we");

        cr_assert(f && fputs("go\n", f) >= 0 && fclose(f) == 0);
}

static void vmm_ends(const char *end, int status) {
        struct test_broker broker;
        char told[1024];
        struct vmm vmm;

        vmm_make(&vmm, end);
        start(&broker, vmm.option);
        cr_assert(EVENTUALLY(vmm_said(&vmm, "started\n")));
        vmm_tell(&vmm);
        cr_assert_eq(test_broker_wait(&broker, told, sizeof told), status);
        test_image_unlink(&image);
        vmm_done(&vmm);
}

TEST(supervisor, ends_with_the_status_of_the_vmm) {
        vmm_ends("exit 5", 5);
}

TEST(supervisor, ends_well_with_the_vmm) {
        vmm_ends("exit 0", 0);
}

TEST(supervisor, ends_with_the_signal_that_killed_the_vmm) {
        vmm_ends("kill -KILL $$", 128 + SIGKILL);
}

TEST(supervisor, starts_the_vmm_once_whatever_becomes_of_the_brokers) {
        struct test_broker broker;
        char told[1024];
        struct vmm vmm;

        vmm_make(&vmm, "exit 6");
        start(&broker, vmm.option);
        cr_assert(EVENTUALLY(vmm_said(&vmm, "started\n")));
        for (unsigned i = 0; i < 3; i++) {
                test_broker_kill_served(&broker);
                test_broker_wait_next(&broker);
        }
        reads_everything(&broker);
        vmm_tell(&vmm);
        cr_assert_eq(test_broker_wait(&broker, told, sizeof told), 6);
        cr_assert(vmm_said(&vmm, "started\n"));
        test_image_unlink(&image);
        vmm_done(&vmm);
}

TEST(supervisor, stops_the_vmm_and_the_broker_when_it_is_told_to_end) {
        struct test_broker broker;
        struct vmm vmm;

        vmm_make(&vmm, "exit 7");
        start(&broker, vmm.option);
        cr_assert(EVENTUALLY(vmm_said(&vmm, "started\n")));
        stop(&broker); /* status 0 */
        vmm_done(&vmm);
}

/* --on-error=stop: it goes on for nobody. */
TEST(supervisor, ends_with_a_broker_that_says_that_the_vm_cannot_go_on) {
        struct peer_task task = { .images = images, .run = peer_tell_and_read, .n = 1 };
        struct test_broker broker;
        struct test_gate gate;
        struct steps steps;
        char told[4096];
        struct vmm vmm;
        pid_t pid;

        require_uffd();
        require_fuse();
        steps = steps_new();
        vmm_make(&vmm, "exit 8");
        test_image_make(&image, &(struct test_image_spec) { .seed = 373, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 0, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .supervisor = (const char *const[]) { vmm.option, NULL },
                                           .args = (const char *const[]) { test_gate_memory("ram0", &gate, ""), "--fill=off",
                                                                           "--source-retries=0", "--on-error=stop", NULL },
                                   });
        cr_assert(EVENTUALLY(vmm_said(&vmm, "started\n")));
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        cr_assert_eq(test_broker_wait(&broker, told, sizeof told), 3);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        steps_done(&steps);
        test_gate_stop(&gate);
        test_image_unlink(&image);
        vmm_done(&vmm);
}
