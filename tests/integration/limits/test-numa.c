/* SPDX-License-Identifier: MIT */
/* The NUMA policy of a memory, or of a part of it that a region shows, holds for its pages, whoever touches them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
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
        unsigned pages = 0;

        require_numa();
        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = PAGES });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, memory), "--fill=off");
        read_numa_map(broker.pid, line, sizeof line);
        cr_assert(strstr(line, words), "%s", line);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        read_numa_map(broker.pid, line, sizeof line);
        /* Without a policy they are where the broker ran: on any node. */
        for (const char *node = strstr(line, memory[0] ? " N0=" : " N"); node;
             node = memory[0] ? NULL : strstr(node + 1, " N")) {
                unsigned n;

                cr_assert(sscanf(node, " N%*u=%u", &n) == 1, "%s", line);
                pages += n;
        }
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

/* ---- huge pages ---- */

#define HUGE_PAGES (2 * HUGE_2M / TEST_PAGE) /* pages in two of them */

static unsigned count_nodes(void) {
        unsigned n = 0;
        char path[64];

        for (unsigned node = 0; node < 1024; node++) {
                (void) snprintf(path, sizeof path, "/sys/devices/system/node/node%u", node);
                n += access(path, F_OK) == 0;
        }
        return n;
}

/* The kernel spreads what is reserved over all nodes that have memory. */
static void require_hugepages_on_node0(unsigned n) {
        _cleanup_fclose_ FILE *f = NULL;
        unsigned have = 0;

        require_hugepages(n * count_nodes(), HUGE_2M);
        f = fopen("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "re");
        if (!f || fscanf(f, "%u", &have) != 1 || have < n)
                cr_skip_test("only %u of %u huge pages on node 0", have, n);
}

/* How many of its pages the broker has mapped, all of them on node 0. */
static unsigned count_on_node0(const struct test_broker *broker) {
        unsigned pages = 0;
        const char *node0;
        char line[512];

        read_numa_map(broker->served, line, sizeof line);
        cr_assert(strstr(line, " bind:0 "), "%s", line);
        cr_assert(strstr(line, " huge "), "%s", line);
        cr_assert(!strstr(line, " N1="), "%s", line);
        node0 = strstr(line, " N0=");
        cr_assert(!node0 || sscanf(node0, " N0=%u", &pages) == 1, "%s", line);
        return pages;
}

/* Here the policy is that of the mapping, not of the memory: of the broker's, who backs all pages, and each broker's anew. */
TEST(numa, policy_holds_for_huge_pages_and_after_a_restart) {
        struct test_broker broker;
        pb_client *client;

        require_numa();
        require_hugepages_on_node0(2);
        test_image_make(&image, &(struct test_image_spec) { .seed = 93, .n_pages = HUGE_PAGES });
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { test_memory("ram0", &image,
                                                                                       ",huge=2M,numa-policy=bind:0"),
                                                                           "--fill=off", NULL },
                                   });
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(client, images, 0, HUGE_2M));
        cr_assert_eq(count_on_node0(&broker), 1);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        cr_assert(ensure_is_right(client, images, HUGE_2M, HUGE_2M));
        cr_assert_geq(count_on_node0(&broker), 1);
        cr_assert(content_is_right(client, images, 0, 2 * HUGE_2M));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(numa, node_that_does_not_exist_is_refused_with_the_reason) {
        static const char *const args[] = { "--memory=ram0,size=1M,numa-policy=bind:0,,1023", NULL };
        char log[1024];

        require_numa();
        cr_assert_eq(test_broker_refuses(args, log, sizeof log), 2);
        cr_assert(strstr(log, "numa-policy 'bind:0,1023': nodes are a list like 0,,2-3 of nodes that exist"), "%s",
                  log);
}

/* What a page that this process's mapping gets at `gpa` would be placed by. */
static int policy_at(pb_client *client, uint64_t gpa, unsigned long *ret_nodes) {
        unsigned long nodes[1024 / (8 * sizeof(long))] = {};
        int mode = -1;

        cr_assert_eq(syscall(SYS_get_mempolicy, &mode, nodes, 1024ul, pb_translate(client, gpa, TEST_PAGE),
                             2 /* MPOL_F_ADDR */),
                     0, "%s", strerror(errno));
        *ret_nodes = nodes[0];
        return mode;
}

static void assert_policy_at(pb_client *client, uint64_t gpa, int mode, unsigned long nodes) {
        unsigned long have;

        cr_assert_eq(policy_at(client, gpa, &have), mode);
        cr_assert_eq(have, nodes);
}

/* One memory, of which a region in the middle has its own policy, as has one at the end: 0 default, 2 bind, 3 interleave. */
TEST(numa, regions_of_one_memory_have_policies_of_their_own) {
        struct test_broker broker;
        pb_client *client;

        require_numa();
        test_image_make(&image, &(struct test_image_spec) { .seed = 92, .n_pages = PAGES });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ""), "--fill=off", "--region=0,size=256K,memory=ram0",
                          "--region=1M,size=256K,memory=ram0,offset=256K,numa-policy=bind:0",
                          "--region=2M,size=512K,memory=ram0,offset=512K,numa-policy=interleave:0");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (unsigned pass = 0; pass < 2; pass++) {
                assert_policy_at(client, 0, 0, 0);
                assert_policy_at(client, (256 << 10) - TEST_PAGE, 0, 0);
                assert_policy_at(client, 1 << 20, 2, 1);
                assert_policy_at(client, (1 << 20) + (256 << 10) - TEST_PAGE, 2, 1);
                assert_policy_at(client, 2 << 20, 3, 1);
                assert_policy_at(client, (2 << 20) + (512 << 10) - TEST_PAGE, 3, 1);
                /* And the same once the pages are here, whose bytes are right at each side of the seams. */
                cr_assert(ensure_is_right(client, images, 0, 256 << 10));
                cr_assert(ensure_is_right(client, images, 1 << 20, 256 << 10));
                cr_assert(ensure_is_right(client, images, 2 << 20, 512 << 10));
        }
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(numa, regions_policy_goes_before_that_of_its_memory) {
        struct test_broker broker;
        pb_client *client;

        require_numa();
        TEST_BROKER_START(&broker, "--memory=ram0,size=1M,numa-policy=bind:0", "--region=0,size=512K,memory=ram0",
                          "--region=1M,size=512K,memory=ram0,offset=512K,numa-policy=preferred:0");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        assert_policy_at(client, 0, 2, 1);
        assert_policy_at(client, 1 << 20, 1, 1);
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

TEST(numa, two_policies_for_the_same_pages_are_refused) {
        static const char *const args[] = { "--memory=ram0,size=1M",
                                            "--region=0,size=1M,memory=ram0,numa-policy=bind:0",
                                            "--region=4M,size=512K,memory=ram0,offset=512K,numa-policy=preferred:0",
                                            NULL };
        static const char *const alike[] = { "--memory=ram0,size=1M",
                                             "--region=0,size=1M,memory=ram0,numa-policy=bind:0",
                                             "--region=4M,size=512K,memory=ram0,offset=512K,numa-policy=bind:0", NULL };
        struct test_broker broker;
        char log[1024];

        require_numa();
        cr_assert_eq(test_broker_refuses(args, log, sizeof log), 1);
        cr_assert(strstr(log, "those at 0x0 and 0x400000 show the same part of memory ram0, with different values of "
                              "numa-policy"),
                  "%s", log);
        test_broker_start(&broker, &(struct test_broker_options) { .args = alike });
        test_broker_stop(&broker);
}
