/* SPDX-License-Identifier: MIT */
/* The broker's own state after its start, and its ways through the filter that are easy to miss. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/lib/connect.h"
#include "tests/lib/test.h"

/* Does the status of this thread have `wanted`? So says one that has just ended, too. */
static bool thread_has(pid_t pid, const char *tid, const char *wanted) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[320], line[256];
        bool any = false;

        (void) snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int) pid, tid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof line, f)) {
                any = true;
                if (strcmp(line, wanted) == 0)
                        return true;
        }
        return !any;
}

static bool all_threads_have(pid_t pid, const char *wanted) {
        struct dirent *entry;
        char path[64];
        unsigned n = 0;
        bool all = true;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) pid);
        dir = opendir(path);
        cr_assert(dir != NULL);
        for (; (entry = readdir(dir)); n++)
                if (entry->d_name[0] != '.' && !thread_has(pid, entry->d_name, wanted))
                        all = false;
        (void) closedir(dir);
        /* ".", "..", the control thread and the pager at least. */
        return all && n >= 4;
}

static struct test_image image;

static void start(struct test_broker *broker, const char *io) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 9, .n_pages = 4096, .data_ppm = 600000 });
        test_image_make_cold(&image);
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", "--seccomp=on", io);
}

static void serve(const char *io) {
        const struct test_image *images[] = { &image };
        struct test_broker broker;
        pb_client *client;

        start(&broker, io);
        client = test_connect(&broker, PB_ROLE_VMM);
        test_check_everything(client, images, 64 << 10);
        cr_assert(pb_discard(client, 0, 1 << 20) == 0, "%s", pb_explain(client));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(seccomp_broker, every_thread_is_filtered_and_without_capabilities) {
        struct test_broker broker;

        start(&broker, "--io=auto");
        cr_assert(all_threads_have(broker.pid, "Seccomp:\t2\n"));
        cr_assert(all_threads_have(broker.pid, "NoNewPrivs:\t1\n"));
        cr_assert(all_threads_have(broker.pid, "CapEff:\t0000000000000000\n"));
        cr_assert(all_threads_have(broker.pid, "CapPrm:\t0000000000000000\n"));
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(seccomp_broker, serves_by_io_uring) {
        require_io_uring();
        serve("--io=uring");
}

TEST(seccomp_broker, serves_by_threads) {
        serve("--io=threads");
}
