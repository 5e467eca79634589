/* SPDX-License-Identifier: MIT */
/*
 * A page that gets into the process's page table while a thread waits for it, without a wake: by CONTINUE with DONTWAKE on
 * the process's own descriptor, here. UFFDIO_CONTINUE says EEXIST then, and wakes nobody: that is the broker's to do.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/integration/peer/peer.h"
#include "tests/lib/gate.h"

#define PAGE 40u

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* The userfaultfd that pb_attach_vmm() has made, and keeps. */
static int find_uffd(void) {
        char path[64], link[64];

        for (int fd = 0; fd < 1024; fd++) {
                ssize_t n;

                (void) snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
                n = readlink(path, link, sizeof link - 1);
                if (n > 0 && strncmp(link, "anon_inode:[userfaultfd]", (size_t) n) == 0)
                        return fd;
        }
        return -1;
}

struct toucher {
        pb_client *client;
        bool good;
};

static void *touch(void *arg) {
        struct toucher *toucher = arg;

        toucher->good = content_is_right(toucher->client, images, PAGE * TEST_PAGE, TEST_PAGE);
        return NULL;
}

static int map_what_a_thread_waits_for(pb_client *client, const struct peer_task *task) {
        struct toucher toucher = { .client = client };
        struct uffdio_continue map = { .mode = UFFDIO_CONTINUE_MODE_DONTWAKE };
        struct pb_region region;
        pthread_t thread;

        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(pthread_create(&thread, NULL, touch, &toucher) == 0);
        CHILD_CHECK(step_await(task->steps)); /* its fault has been read, and waits for the source */
        /* The page gets memory: the broker's read lands elsewhere. */
        CHILD_CHECK(region.page_size > TEST_PAGE || pwrite(region.fd, "x", 1, PAGE * TEST_PAGE) == 1);
        map.range.start = (uintptr_t) region.addr + PAGE * TEST_PAGE / region.page_size * region.page_size;
        map.range.len = region.page_size;
        CHILD_CHECK(ioctl(find_uffd(), UFFDIO_CONTINUE, &map) == 0);
        CHILD_CHECK(step_tell(task->steps));
        CHILD_CHECK(pthread_join(thread, NULL) == 0);
        return toucher.good ? 0 : 1;
}

static void mapped_without_a_wake(const char *huge) {
        struct test_broker broker;
        struct test_gate gate;
        struct steps steps;
        pb_client *client;
        pid_t pid;

        require_uffd();
        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 83, .n_pages = 1024 });
        test_gate_start(&gate, &image);
        steps = steps_new();
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, huge), "--fill=off", "--fault-around=4K");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_gate_hold(&gate, PAGE * TEST_PAGE, TEST_PAGE);
        if (*huge) /* some page of it has to be there before the kernel maps it */
                test_ensure_and_check(client, &image, (PAGE + 20) * TEST_PAGE, TEST_PAGE);
        pid = peer_start(&(struct peer_task) {
                .broker = &broker, .images = images, .steps = steps.child, .run = map_what_a_thread_waits_for });
        test_gate_wait_held(&gate, PAGE * TEST_PAGE, TEST_PAGE, 1);
        cr_assert(step_tell(steps.parent));
        cr_assert(step_await(steps.parent));
        test_gate_open(&gate);
        cr_assert_eq(test_child_wait(pid), 0);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        steps_done(&steps);
        test_image_unlink(&image);
}

TEST(mapped, page_without_a_wake_is_woken_when_it_is_present) {
        mapped_without_a_wake("");
}

TEST(mapped, huge_page_without_a_wake_is_woken_when_all_of_it_is_present) {
        require_hugepages(2, HUGE_2M);
        mapped_without_a_wake(",huge=2M");
}
