/* SPDX-License-Identifier: MIT */
/* The broker's limit of descriptors is as high as its clients need it, or as high as it can be. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/require.h"

#define PAGES 256u
#define CLIENTS 200u

static struct test_image image;

static void start_with(struct test_broker *broker, const char *limits, const char *drop, const char *option) {
        static char wrapper[160];

        if (access("/usr/bin/setpriv", X_OK) < 0 || access("/usr/bin/prlimit", X_OK) < 0)
                cr_skip_test("no setpriv or prlimit (util-linux)");
        if (getenv("PAGEBROKERD_WRAPPER"))
                cr_skip_test("$PAGEBROKERD_WRAPPER is in use");
        (void) snprintf(wrapper, sizeof wrapper, "/usr/bin/prlimit --nofile=%s /usr/bin/setpriv %s", limits, drop);
        (void) setenv("PAGEBROKERD_WRAPPER", wrapper, 1);
        test_image_make(&image, &(struct test_image_spec) { .seed = 78, .n_pages = PAGES });
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", "--io=threads", option);
}

static uint64_t soft_limit(pid_t pid) {
        _cleanup_fclose_ FILE *file = NULL;
        unsigned long long limit = 0;
        char path[64], line[256];

        (void) snprintf(path, sizeof path, "/proc/%d/limits", (int) pid);
        file = fopen(path, "re");
        cr_assert(file);
        while (fgets(line, sizeof line, file))
                if (sscanf(line, "Max open files %llu", &limit) == 1)
                        break;
        return limit;
}

/* 8 for each client and 3 for each of 1024 userfaultfds, beside its own. */
TEST(descriptors, limit_is_raised_to_what_the_clients_need) {
        struct test_broker broker;

        start_with(&broker, "300:20000", "--no-new-privs", "--client-limit=1000");
        cr_assert_geq(soft_limit(broker.pid), 1000 * 8 + 1024 * 3 + 256);
        cr_assert(!test_broker_logged(&broker, "descriptors allowed"));
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

static bool may_raise(void) {
        struct rlimit limit;

        return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
               setrlimit(RLIMIT_NOFILE, &(struct rlimit) { limit.rlim_cur, limit.rlim_max + 1 }) == 0;
}

TEST(descriptors, hard_limit_is_raised_by_root) {
        struct test_broker broker;

        require_root();
        if (!may_raise())
                cr_skip_test("this root may not raise limits (CAP_SYS_RESOURCE)");
        start_with(&broker, "300:300", "--no-new-privs", "--client-limit=1000");
        cr_assert_geq(soft_limit(broker.pid), 1000 * 8 + 1024 * 3 + 256);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

static int try_connect(const struct test_broker *broker, pb_client **ret) {
        struct pb_options options = {
                .size = sizeof options,
                .role = PB_ROLE_DEVICE,
                .name = "one of many",
                .flags = PB_OPT_COUNT_LOST_WAKES,
                .slice_us = TEST_SLICE_US(broker),
        };

        return pb_connect(ret, broker->address, &options);
}

TEST(descriptors, when_there_are_no_more_the_next_client_is_refused_and_the_others_are_served) {
        pb_client *clients[CLIENTS];
        struct test_broker broker;
        struct rlimit limit;
        unsigned n = 0;

        require_root();
        start_with(&broker, "300:300", "--bounding-set=-sys_resource", "--client-limit=512");
        cr_assert(test_broker_will_log(&broker, "only 300 descriptors allowed (RLIMIT_NOFILE); 512 clients (--client-limit) may "
                                                "need 7424, and who comes when none is left is refused\n"));
        cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        while (n < CLIENTS && try_connect(&broker, &clients[n]) == 0)
                n++;
        cr_assert(n > 10 && n < CLIENTS, "%u clients", n);
        for (unsigned i = 0; i < n; i++)
                test_ensure_and_check(clients[i], &image, i % PAGES * TEST_PAGE, TEST_PAGE);
        /* And a place that comes back is given again. */
        clients[0] = test_disconnect(clients[0]);
        cr_assert(EVENTUALLY(try_connect(&broker, &clients[0]) == 0));
        test_ensure_and_check(clients[0], &image, (PAGES - 1) * TEST_PAGE, TEST_PAGE);
        for (unsigned i = 0; i < n; i++)
                clients[i] = test_disconnect(clients[i]);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
