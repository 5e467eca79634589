/* SPDX-License-Identifier: MIT */
#include "tests/integration/peer/peer.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>

static int peer_main(void *arg) {
        const struct peer_task *task = arg;
        struct pb_vmm_options options = { .size = sizeof options, .shards = task->shards };
        pb_client *client = child_connect(task->broker, PB_ROLE_VMM);
        int r;

        CHILD_CHECK(client);
        r = pb_attach_vmm(client, &options);
        if (r < 0)
                fprintf(stderr, "pb_attach_vmm: %s\n", pb_explain(client));
        CHILD_CHECK(r == 0);
        r = task->run(client, task);
        return child_disconnect(client) ? r : 1;
}

pid_t peer_start(const struct peer_task *task) {
        return test_child_start((uid_t) -1, peer_main, (void *) task);
}

void peer_run(const struct peer_task *task) {
        cr_assert_eq(test_child_wait(peer_start(task)), 0);
}

char *peer_memory(pb_client *client) {
        struct pb_region region;

        return pb_get_region(client, 0, &region) == 0 ? region.addr : NULL;
}

int peer_read_everything(pb_client *client, const struct peer_task *task) {
        struct pb_region region;

        for (unsigned i = 0; pb_get_region(client, i, &region) == 0; i++)
                CHILD_CHECK(content_is_right(client, task->images, region.gpa, region.size));
        return 0;
}

int peer_read_pages(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(content_is_right(client, task->images, task->page * TEST_PAGE, task->n * TEST_PAGE));
        return 0;
}

int peer_tell_and_read(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(step_tell(task->steps));
        return peer_read_pages(client, task);
}

static sigjmp_buf after_sigbus;

static void on_sigbus(int signal) {
        siglongjmp(after_sigbus, 1);
}

bool peer_can_load(const volatile char *addr) {
        struct sigaction action = { .sa_handler = on_sigbus };
        volatile bool loaded = false;

        (void) sigaction(SIGBUS, &action, NULL);
        if (sigsetjmp(after_sigbus, 1) == 0) {
                (void) *addr;
                loaded = true;
        }
        return loaded;
}
