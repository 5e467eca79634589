/* SPDX-License-Identifier: MIT */
/*
 * Pages that are in the process's page table before it touches them: by the broker, which continues what others brought; and
 * behind the broker's back. A page that gets into the process's page table while a thread waits for it, without a wake: by CONTINUE with DONTWAKE on
 * the process's own descriptor, here. UFFDIO_CONTINUE says EEXIST then, and wakes nobody: that is the broker's to do.
 */
#include <fcntl.h>
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

/* ---- by the broker ---- */

static bool is_mapped(const char *addr) {
        int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        off_t at = (off_t) ((uintptr_t) addr / (uintptr_t) sysconf(_SC_PAGESIZE) * sizeof(uint64_t));
        uint64_t entry = 0;
        bool good = pagemap >= 0 && pread(pagemap, &entry, sizeof entry, at) == sizeof entry;

        (void) close(pagemap);
        return good && entry >> 63;
}

static int see_them_mapped(pb_client *client, const struct peer_task *task) {
        struct pb_region region;

        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(step_tell(task->steps));
        for (uint64_t page = task->page; page < task->page + task->n; page++)
                CHILD_CHECK(EVENTUALLY(is_mapped((char *) region.addr + page * TEST_PAGE)));
        return peer_read_pages(client, task);
}

static void brought_by_others(const char *huge, uint64_t n) {
        struct test_broker broker;
        struct steps steps;
        pb_client *client;
        pid_t pid;

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .seed = 84, .n_pages = 1024 });
        steps = steps_new();
        TEST_BROKER_START(&broker, test_memory("ram0", &image, huge), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        pid = peer_start(&(struct peer_task) {
                .broker = &broker, .images = images, .steps = steps.child, .run = see_them_mapped, .page = 0, .n = n });
        cr_assert(step_await(steps.parent));
        test_ensure_and_check(client, &image, 0, n * TEST_PAGE);
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert_eq(get_stats(client).faults_peer, 0, "it had to fault");
        client = test_disconnect(client);
        test_broker_stop(&broker);
        steps_done(&steps);
        test_image_unlink(&image);
}

TEST(mapped, pages_that_others_brought_need_no_fault) {
        brought_by_others("", 200);
}

TEST(mapped, huge_pages_that_others_brought_need_no_fault) {
        require_hugepages(2, HUGE_2M);
        brought_by_others(",huge=2M", 512);
}
