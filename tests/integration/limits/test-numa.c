/* SPDX-License-Identifier: MIT */
/* The NUMA policy of a memory holds for its pages, whoever touches them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define PAGES 256u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void require_numa(void) {
        if (access("/proc/self/numa_maps", R_OK) < 0)
                cr_skip_test("this kernel has no NUMA policies");
}

/* The line of /proc/PID/numa_maps for guest memory: "ADDRESS POLICY file=... N0=PAGES ...". */
static void read_numa_map(pid_t pid, char *ret, size_t size) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[64], line[512];

        (void) snprintf(path, sizeof path, "/proc/%d/numa_maps", (int) pid);
        f = fopen(path, "re");
        cr_assert(f);
        ret[0] = 0;
        while (fgets(line, sizeof line, f))
                if (strstr(line, "/memfd:pagebroker:test:ram0\\040"))
                        (void) snprintf(ret, size, "%s", line);
        cr_assert(ret[0], "guest memory is not mapped");
}

static void assert_policy(const char *memory, const char *words) {
        struct test_broker broker;
        char line[512];
        pb_client *client;
        unsigned pages;
        const char *node0;

        require_numa();
        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = PAGES });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, memory), "--fill=off");
        read_numa_map(broker.pid, line, sizeof line);
        cr_assert(strstr(line, words), "%s", line);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        read_numa_map(broker.pid, line, sizeof line);
        node0 = strstr(line, " N0=");
        cr_assert(node0 && sscanf(node0, " N0=%u", &pages) == 1, "%s", line);
        cr_assert_eq(pages, PAGES, "%s", line);
        /* It is the memory's: the client, who set none, sees the same one. */
        read_numa_map(getpid(), line, sizeof line);
        cr_assert(strstr(line, words), "%s", line);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(numa, bind_puts_all_pages_onto_the_node) {
        assert_policy(",numa-policy=bind:0", " bind:0 ");
}

TEST(numa, preferred_and_interleave_are_set_too) {
        assert_policy(",numa-policy=preferred:0", " prefer:0 ");
        assert_policy(",numa-policy=interleave:0", " interleave:0 ");
}

TEST(numa, policy_is_the_default_one_when_none_is_asked_for) {
        assert_policy("", " default ");
}

TEST(numa, node_that_does_not_exist_is_refused_with_the_reason) {
        static const char *const args[] = { "--memory=ram0,size=1M,numa-policy=bind:0,,1023", NULL };
        char log[1024];

        require_numa();
        cr_assert_eq(test_broker_refuses(args, log, sizeof log), 2);
        cr_assert(strstr(log, "numa-policy 'bind:0,1023': nodes are a list like 0,,2-3 of nodes that exist"), "%s", log);
}
