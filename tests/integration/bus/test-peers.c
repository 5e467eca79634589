/* SPDX-License-Identifier: MIT */
/* Faults by userfaultfd, as the bus shows them. */
#include <errno.h>
#include <string.h>

#include "tests/integration/bus/support.h"
#include "tests/integration/peer/peer.h"
#include "tests/lib/gate.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

TEST(peers, a_vcpu_that_waits_is_shown_with_its_page) {
        struct stuck_row rows[4] = {};
        struct latency_row row;
        struct peer_task task;
        struct test_gate gate;
        struct scene scene;
        uint32_t total;
        char path[64];
        pid_t pid;

        require_uffd();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 71, .n_pages = 1024 });
        test_gate_start(&gate, &image);
        test_gate_hold(&gate, 40 * TEST_PAGE, TEST_PAGE);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--fault-around=4K");
        task = (struct peer_task) { .broker = &scene.broker, .images = images, .run = peer_read_pages, .page = 40, .n = 1 };
        pid = peer_start(&task);
        test_gate_wait_held(&gate, 40 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(get_stuck(scene.us, rows, 4, &total), 1);
        cr_assert(rows[0].page == 40 && rows[0].gpa == 40 * TEST_PAGE && rows[0].waited_us > 0);
        cr_assert_str_eq(rows[0].class, "vcpu");
        cr_assert_str_eq(rows[0].why, "reading");
        cr_assert(find_client(scene.us, path));
        cr_assert(string_is(scene.us, path, CLIENT_INTERFACE, "Role", "vmm"));
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "ProcessID"), (uint64_t) pid);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Peers"), 1);
        cr_assert_eq(VM_NUMBER(scene.us, "Peers"), 1);
        cr_assert_geq(get_number(scene.us, path, CLIENT_INTERFACE, "FaultsVCPU"), 1);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "FaultsDevice"), 0);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Waiting"), 1);
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "WaitingPage"), 40);
        cr_assert_eq(get_latency(scene.us, path, CLIENT_INTERFACE, "vcpu").count, 0);
        test_gate_open(&gate);
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert(EVENTUALLY(count_clients(scene.us) == 0));
        /* Its thread has been woken before that is counted. */
        cr_assert(EVENTUALLY((row = get_latency(scene.us, VM, VM_INTERFACE, "vcpu")).count >= 1));
        cr_assert_geq(row.max_ns, rows[0].waited_us * 1000);
        cr_assert_geq(VM_NUMBER(scene.us, "FaultsPeer"), 1);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(peers, a_page_that_is_poisoned_is_what_a_vcpu_waits_for) {
        struct stuck_row rows[4] = {};
        struct peer_task task;
        struct test_gate gate;
        struct scene scene;
        uint32_t total;
        pid_t pid;

        require_uffd();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 72, .n_pages = 1024 });
        test_gate_start(&gate, &image);
        test_gate_fail(&gate, 40 * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        SCENE_START(&scene, test_gate_memory("ram0", &gate, ""), "--fill=off", "--fault-around=4K", "--source-retries=0");
        task = (struct peer_task) { .broker = &scene.broker, .images = images, .run = peer_read_pages, .page = 40, .n = 1 };
        pid = peer_start(&task);
        cr_assert(EVENTUALLY(get_stuck(scene.us, rows, 4, &total) == 1 && strcmp(rows[0].why, "poisoned") == 0));
        cr_assert(rows[0].page == 40 && strcmp(rows[0].reason, "Input/output error") == 0, "%s", rows[0].reason);
        test_gate_open(&gate);
        (void) sd_bus_message_unref(call(scene.us, "Heal", "utt", (uint32_t) 0, (uint64_t) 0, (uint64_t) 0));
        cr_assert_eq(test_child_wait(pid), 0);
        scene_stop(&scene);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

static int read_wait_read(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(content_is_right(client, task->images, 0, 8 * TEST_PAGE));
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        CHILD_CHECK(content_is_right(client, task->images, 8 * TEST_PAGE, 8 * TEST_PAGE));
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        return 0;
}

/* Plain loads and stores have no reason to connect again. */
TEST(peers, a_process_that_an_earlier_broker_served_is_shown_with_its_faults) {
        struct peer_task task = { .images = images, .run = read_wait_read };
        struct test_broker broker;
        struct test_bus bus;
        struct steps steps;
        char path[64];
        sd_bus *us;
        pid_t pid;

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .seed = 74, .n_pages = 1024 });
        test_bus_start(&bus);
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { TEST_MEMORY("ram0", &image), bus.option, "--fill=off",
                                                                           "--fault-around=4K", NULL },
                                   });
        us = test_bus_connect(&bus);
        steps = steps_new();
        task.broker = &broker;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert(EVENTUALLY(is_process(us, broker.served)));
        cr_assert_eq(count_clients(us), 1);
        cr_assert(find_client(us, path));
        cr_assert_eq(get_number(us, path, CLIENT_INTERFACE, "ProcessID"), (uint64_t) pid);
        cr_assert_eq(get_number(us, path, CLIENT_INTERFACE, "Connected"), 0);
        cr_assert_eq(get_number(us, path, CLIENT_INTERFACE, "Peers"), 1);
        cr_assert(string_is(us, path, CLIENT_INTERFACE, "Role", "vmm"));
        cr_assert_eq(get_number(us, path, CLIENT_INTERFACE, "FaultsVCPU"), 0);
        cr_assert(step_tell(steps.parent) && step_await(steps.parent));
        /* At least one each; they are counted when they are answered. */
        cr_assert(EVENTUALLY(get_number(us, path, CLIENT_INTERFACE, "FaultsVCPU") >= 8));
        cr_assert(EVENTUALLY(get_latency(us, path, CLIENT_INTERFACE, "vcpu").count >= 8));
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert(EVENTUALLY(count_clients(us) == 0));
        cr_assert_geq(get_latency(us, VM, VM_INTERFACE, "vcpu").count, 8);
        us = test_bus_disconnect(us);
        steps_done(&steps);
        test_broker_stop(&broker);
        test_bus_stop(&bus);
        test_image_unlink(&image);
}

/* Attaches, hangs up, and lives on until it is told to end. */
static int hang_up_and_live(void *arg) {
        const struct peer_task *task = arg;
        struct pb_vmm_options options = { .size = sizeof options };
        pb_client *client = child_connect(task->broker, PB_ROLE_VMM);

        CHILD_CHECK(client && pb_attach_vmm(client, &options) == 0);
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        CHILD_CHECK(child_disconnect(client));
        CHILD_CHECK(step_tell(task->steps) && step_await(task->steps));
        return 0;
}

TEST(peers, a_client_that_hung_up_is_shown_while_its_process_is_served) {
        struct peer_task task;
        struct listener gone;
        struct steps steps;
        struct scene scene;
        char path[64];
        pid_t pid;

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .seed = 73, .n_pages = 1024 });
        SCENE_START(&scene, TEST_MEMORY("ram0", &image), "--fill=off");
        listen_for(&gone, scene.us, "ClientDisconnected");
        steps = steps_new();
        task = (struct peer_task) { .broker = &scene.broker, .steps = steps.child };
        pid = test_child_start((uid_t) -1, hang_up_and_live, &task);
        cr_assert(step_await(steps.parent));
        cr_assert(find_client(scene.us, path));
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Connected"), 1);
        cr_assert(step_tell(steps.parent) && step_await(steps.parent));
        cr_assert(EVENTUALLY(get_number(scene.us, path, CLIENT_INTERFACE, "Connected") == 0));
        cr_assert_eq(get_number(scene.us, path, CLIENT_INTERFACE, "Peers"), 1);
        cr_assert(!heard(&gone, 1));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchClient", "DisconnectClient", "t",
                             get_number(scene.us, path, CLIENT_INTERFACE, "Id")));
        cr_assert(step_tell(steps.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert(EVENTUALLY(heard(&gone, 1)));
        cr_assert_eq(count_clients(scene.us), 0);
        listen_done(&gone);
        steps_done(&steps);
        scene_stop(&scene);
        test_image_unlink(&image);
}
