/* SPDX-License-Identifier: MIT */
/* Userfaultfds of processes that know nothing of it: their threads fault on, and get the source's bytes. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/peer/peer.h"
#include "tests/lib/gate.h"

#define N_PAGES 2048u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void start(struct test_broker *broker, const char *memory, const char *option) {
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { memory, "--fill=off", option, NULL },
                                  });
}

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 311, .n_pages = N_PAGES, .data_ppm = 700000 });
}

static void kill_and_wait(struct test_broker *broker) {
        test_broker_kill_served(broker);
        test_broker_wait_next(broker);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

static unsigned count_peers(const struct test_broker *broker) {
        pb_client *client = test_connect(broker, PB_ROLE_OBSERVER);
        unsigned n = (unsigned) get_stats(client).peers;

        client = test_disconnect(client);
        return n;
}

/* Reads a part and leaves marks, waits, looks for its marks and reads the rest. */
static int read_wait_read(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);

        CHILD_CHECK(content_is_right(client, task->images, 0, N_PAGES / 2 * TEST_PAGE));
        for (unsigned page = 0; page < N_PAGES / 2; page += 3)
                memset(memory + page * TEST_PAGE, 0xa5, TEST_PAGE);
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        for (unsigned page = 0; page < N_PAGES / 2; page++)
                if (page % 3)
                        CHILD_CHECK(content_is_right(client, task->images, page * TEST_PAGE, TEST_PAGE));
                else
                        for (unsigned i = 0; i < TEST_PAGE; i++)
                                CHILD_CHECK(memory[page * TEST_PAGE + i] == (char) 0xa5);
        CHILD_CHECK(content_is_right(client, task->images, N_PAGES / 2 * TEST_PAGE, N_PAGES / 2 * TEST_PAGE));
        return 0;
}

static void faults_on(const char *more, unsigned shards, unsigned lives) {
        struct peer_task task = { .images = images, .shards = shards, .run = read_wait_read };
        struct test_broker broker;
        struct steps steps = steps_new();
        pid_t pid;

        make_image();
        start(&broker, test_memory("ram0", &image, more), "--seccomp=on");
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        for (unsigned i = 0; i < lives; i++)
                kill_and_wait(&broker);
        cr_assert_eq(count_peers(&broker), shards ?: 1);
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert(EVENTUALLY(count_peers(&broker) == 0));
        steps_done(&steps);
        stop(&broker);
}

TEST(peers, fault_on_after_a_restart) {
        require_uffd();
        faults_on("", 0, 1);
}

TEST(peers, fault_on_after_many_restarts) {
        require_uffd();
        faults_on("", 0, 6);
}

TEST(peers, fault_on_over_several_userfaultfds) {
        require_uffd();
        faults_on("", 5, 2);
}

TEST(peers, fault_on_in_huge_pages) {
        require_uffd();
        require_hugepages(4, HUGE_2M);
        faults_on(",huge=2M", 2, 2);
}

/* The dead broker had read the fault: it is not reported again by itself. */
TEST(peers, thread_that_waited_in_a_fault_goes_on) {
        struct peer_task task = { .images = images, .run = peer_tell_and_read, .page = 100, .n = 1 };
        struct test_broker broker;
        struct test_gate gate;
        struct steps steps = steps_new();
        pid_t pid;

        require_uffd();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 312, .n_pages = N_PAGES });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 100 * TEST_PAGE, TEST_PAGE);
        start(&broker, test_gate_memory("ram0", &gate, ""), "--fault-around=4K");
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        test_gate_wait_held(&gate, 100 * TEST_PAGE, TEST_PAGE, 1);
        test_broker_kill_served(&broker);
        /* A process with a read at the source cannot end before the source has answered. */
        test_gate_release(&gate, 100 * TEST_PAGE, TEST_PAGE);
        test_broker_wait_next(&broker);
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        test_gate_stop(&gate);
        stop(&broker);
}

static int tell_and_sleep(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(step_tell(task->steps));
        for (;;)
                (void) pause();
}

TEST(peers, process_that_ended_meanwhile_is_forgotten) {
        struct peer_task task = { .images = images, .shards = 3, .run = tell_and_sleep };
        struct test_broker broker;
        struct steps steps = steps_new();
        pid_t pid;

        require_uffd();
        make_image();
        start(&broker, TEST_MEMORY("ram0", &image), "--seccomp=on");
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        cr_assert_eq(count_peers(&broker), 3);
        /* Both at once: one of the two brokers sees it, or none before the other is dead. */
        cr_assert(kill(pid, SIGKILL) == 0);
        test_broker_kill_served(&broker);
        (void) test_child_wait(pid);
        test_broker_wait_next(&broker);
        cr_assert(EVENTUALLY(count_peers(&broker) == 0));
        kill_and_wait(&broker);
        cr_assert_eq(count_peers(&broker), 0);
        cr_assert(!test_broker_logged(&broker, "not in the supervisor's store"));
        steps_done(&steps);
        stop(&broker);
}

/* Completion lets go of them; a broker that dies in between leaves that to the next one. */
TEST(peers, of_a_complete_memory_are_let_go) {
        struct peer_task task = { .images = images, .run = read_wait_read };
        struct test_broker broker;
        struct steps steps = steps_new();
        pb_client *client;
        pid_t pid;

        require_uffd();
        make_image();
        start(&broker, TEST_MEMORY("ram0", &image), "--seccomp=on");
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, N_PAGES * TEST_PAGE, PB_READ);
        client = test_disconnect(client);
        kill_and_wait(&broker);
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        client = test_connect(&broker, PB_ROLE_OBSERVER);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == N_PAGES));
        client = test_disconnect(client);
        steps_done(&steps);
        stop(&broker);
}
