/* SPDX-License-Identifier: MIT */
/*
 * From the SIGKILL of the broker to the next page that somebody gets: what a linked client waits, and a thread that faults
 * through userfaultfd, while examples/supervisor starts the next broker. Numbers go to $BENCH_RAW, a line each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/integration/basic/support.h"

#define N_PAGES 16384u /* 64 MiB */
#define PAUSE_US 1200000u /* a broker that ends within a second of its start makes a supervisor careful */

static struct test_image image;

static unsigned n_kills(void) {
        const char *text = getenv("BENCH_KILLS");

        return text ? (unsigned) strtoul(text, NULL, 10) : 100;
}

/* The next page to be touched, spread over the memory so that nothing brings it along. */
static uint64_t page_of(unsigned i) {
        return (uint64_t) (i + 1) * 131 % N_PAGES;
}

static int compare(const void *a, const void *b) {
        const uint64_t *left = a, *right = b;

        return *left < *right ? -1 : *left > *right;
}

/* Of sorted microseconds, in milliseconds. */
static double percentile(const uint64_t *us, unsigned n, unsigned percent) {
        unsigned index = n * percent / 100;

        return (double) us[index] / 1000;
}

static void report(const char *kind, uint64_t *us, unsigned n) {
        const char *path = getenv("BENCH_RAW");
        FILE *file = path ? fopen(path, "ae") : NULL;

        for (unsigned i = 0; file && i < n; i++)
                fprintf(file, "%s,%u,%llu\n", kind, i, (unsigned long long) us[i]);
        if (file)
                (void) fclose(file);
        qsort(us, n, sizeof us[0], compare);
        printf("%-12s %4u kills: median %5.1f ms, p90 %5.1f, p99 %5.1f, max %5.1f\n", kind, n,
               percentile(us, n, 50), percentile(us, n, 90), percentile(us, n, 99), (double) us[n - 1] / 1000);
}

static void start(struct test_broker *broker, pb_client **ret) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 5, .n_pages = N_PAGES });
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { TEST_MEMORY("ram0", &image), "--fill=off", NULL },
                                  });
        *ret = test_connect(broker, PB_ROLE_VMM);
}

TEST(restart, linked_client) {
        unsigned n = n_kills();
        uint64_t us[1000];
        struct test_broker broker;
        pb_client *client;

        cr_assert(n > 0 && n <= 1000);
        start(&broker, &client);
        for (unsigned i = 0; i < n; i++) {
                uint64_t begin_us;

                (void) usleep(PAUSE_US);
                begin_us = clock_now_us();
                test_broker_kill_served(&broker);
                test_ensure(client, page_of(i) * TEST_PAGE, TEST_PAGE, PB_READ);
                us[i] = clock_now_us() - begin_us;
                test_image_assert(&image, page_of(i), 1, pb_translate(client, page_of(i) * TEST_PAGE, TEST_PAGE));
                test_broker_wait_next(&broker);
        }
        report("linked", us, n);
        (void) test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

struct vmm {
        const struct test_broker *broker;
        unsigned begun, done, n; /* atomic */
        uint64_t done_us;
};

static int touch_pages(void *arg) {
        struct vmm *vmm = arg;
        pb_client *client = child_connect(vmm->broker, PB_ROLE_VMM);

        if (!client || pb_attach_vmm(client, NULL) < 0)
                return 1;
        __atomic_store_n(&vmm->done, 1, __ATOMIC_RELEASE);
        for (unsigned i = 0; i < vmm->n; i++) {
                const char *page = (const char *) get_region(client, 0).addr + page_of(i) * TEST_PAGE;

                while (__atomic_load_n(&vmm->begun, __ATOMIC_ACQUIRE) <= i)
                        (void) usleep(50);
                if (test_image_compare(&image, page_of(i), 1, page) != TEST_IMAGE_NONE)
                        return 1;
                vmm->done_us = clock_now_us();
                __atomic_store_n(&vmm->done, i + 2, __ATOMIC_RELEASE);
        }
        return child_disconnect(client) ? 0 : 1;
}

TEST(restart, userfaultfd) {
        struct vmm *vmm = mmap(NULL, sizeof *vmm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        unsigned n = n_kills();
        uint64_t us[1000];
        struct test_broker broker;
        pb_client *client;
        pid_t pid;

        require_uffd();
        cr_assert(n > 0 && n <= 1000 && vmm != MAP_FAILED);
        start(&broker, &client);
        client = test_disconnect(client);
        vmm->broker = &broker;
        vmm->n = n;
        pid = test_child_start((uid_t) -1, touch_pages, vmm);
        cr_assert(EVENTUALLY(__atomic_load_n(&vmm->done, __ATOMIC_ACQUIRE) == 1));
        for (unsigned i = 0; i < n; i++) {
                uint64_t begin_us;

                (void) usleep(PAUSE_US);
                begin_us = clock_now_us();
                test_broker_kill_served(&broker);
                __atomic_store_n(&vmm->begun, i + 1, __ATOMIC_RELEASE);
                cr_assert(EVENTUALLY(__atomic_load_n(&vmm->done, __ATOMIC_ACQUIRE) == i + 2));
                us[i] = vmm->done_us - begin_us;
                test_broker_wait_next(&broker);
        }
        report("userfaultfd", us, n);
        cr_assert_eq(test_child_wait(pid), 0);
        (void) munmap(vmm, sizeof *vmm);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
