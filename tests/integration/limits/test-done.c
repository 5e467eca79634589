/* SPDX-License-Identifier: MIT */
/* When everything is present the broker has given back what it fetched with, and does nothing. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

#define PAGES 2048u

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* Nanoseconds on a CPU and times put onto one, of all threads. */
struct activity {
        uint64_t run_ns, n_runs;
        unsigned n_threads;
};

static struct activity read_activity(pid_t pid) {
        struct activity sum = { 0 };
        char path[320];
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) pid);
        dir = opendir(path);
        cr_assert(dir);
        for (struct dirent *entry; (entry = readdir(dir));) {
                _cleanup_fclose_ FILE *f = NULL;
                uint64_t run_ns, wait_ns, n_runs;

                (void) snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int) pid, entry->d_name);
                f = fopen(path, "re");
                if (!f || fscanf(f, "%" SCNu64 " %" SCNu64 " %" SCNu64, &run_ns, &wait_ns, &n_runs) != 3)
                        continue;
                sum.run_ns += run_ns;
                sum.n_runs += n_runs;
                sum.n_threads++;
        }
        (void) closedir(dir);
        return sum;
}

/* Nothing of it runs for a tenth of a second. */
static bool is_quiet(pid_t pid) {
        struct activity before = read_activity(pid), after;

        (void) usleep(100000);
        after = read_activity(pid);
        return before.n_runs == after.n_runs && before.run_ns == after.run_ns && before.n_threads == after.n_threads;
}

static unsigned count_links(pid_t pid, const char *wanted) {
        char path[64], link[320], target[256];
        unsigned n = 0;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/fd", (int) pid);
        dir = opendir(path);
        cr_assert(dir);
        for (struct dirent *entry; (entry = readdir(dir));) {
                ssize_t length;

                (void) snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
                length = readlink(link, target, sizeof target - 1);
                target[length < 0 ? 0 : length] = 0;
                n += strcmp(target, wanted) == 0;
        }
        (void) closedir(dir);
        return n;
}

static void start(struct test_broker *broker, const char *io) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 75, .n_pages = PAGES, .data_ppm = 800000 });
        test_image_make_cold(&image);
        TEST_BROKER_START(broker, TEST_MEMORY("ram0", &image), "--fill=off", io);
}

static void stop(struct test_broker *broker) {
        test_broker_stop(broker);
        test_image_unlink(&image);
}

static bool is_taken_down(struct test_broker *broker) {
        return test_broker_will_log(broker, "what reads pages has been taken down");
}

TEST(done, workers_that_read_are_gone) {
        struct test_broker broker;
        struct activity before;
        pb_client *client;
        long rss_kib;

        start(&broker, "--io=threads");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, PAGES / 2 * TEST_PAGE));
        before = read_activity(broker.pid);
        rss_kib = test_broker_rss_kib(&broker);
        cr_assert(before.n_threads > 64, "%u threads", before.n_threads);
        cr_assert_eq(pb_set_fill(client, true), 0);
        cr_assert(is_taken_down(&broker));
        cr_assert(EVENTUALLY(read_activity(broker.pid).n_threads <= 4), "%u threads",
                  read_activity(broker.pid).n_threads);
        if (!TEST_SANITIZED)
                cr_assert(test_broker_rss_kib(&broker) < rss_kib, "%ld KiB, then %ld", rss_kib,
                          test_broker_rss_kib(&broker));
        cr_assert(content_is_right(client, images, 0, PAGES * TEST_PAGE));
        client = test_disconnect(client);
        stop(&broker);
}

TEST(done, ring_that_read_is_gone) {
        struct test_broker broker;
        pb_client *client;

        require_io_uring();
        start(&broker, "--io=uring");
        cr_assert_eq(count_links(broker.pid, "anon_inode:[io_uring]"), 1);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        cr_assert(is_taken_down(&broker));
        cr_assert_eq(count_links(broker.pid, "anon_inode:[io_uring]"), 0);
        client = test_disconnect(client);
        stop(&broker);
}

/* Its first step is taken at once, its second one is due long after everything is there. */
TEST(done, fill_that_is_under_way_is_given_up) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 78, .n_pages = PAGES });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=on", "--fill-rate=1");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).pages_present > 0));
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        cr_assert(is_taken_down(&broker));
        client = test_disconnect(client);
        stop(&broker);
}

/* A read that was given up holds its buffer until it is answered: everything else is there by then. */
TEST(done, waits_for_the_last_late_answer) {
        struct test_broker broker;
        struct test_gate gate;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 76, .n_pages = 256 });
        test_gate_start(&gate, &image);
        test_gate_hold_turns(&gate, 0, TEST_PAGE, TEST_GATE_ONCE);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off", "--source-timeout=0.3",
                          "--source-retries=100");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, 256 * TEST_PAGE));
        cr_assert_eq(test_gate_count_held(&gate, 0, TEST_PAGE), 1);
        cr_assert(test_broker_will_log(&broker, "all pages are present"));
        cr_assert_eq(test_broker_logged(&broker, "taken down"), false);
        test_gate_release(&gate, 0, TEST_PAGE);
        cr_assert(is_taken_down(&broker));
        cr_assert(content_is_right(client, images, 0, 256 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

/* A process with a userfaultfd that also asks for every page: its steps, in shared memory. */
enum step { STEP_BEGIN, STEP_COMPLETE, STEP_USE, STEP_USED, STEP_END };

struct vmm {
        const struct test_broker *broker;
        uint32_t step;
};

static enum step get_step(struct vmm *vmm) {
        return __atomic_load_n(&vmm->step, __ATOMIC_ACQUIRE);
}

static bool is_at(struct vmm *vmm, enum step step) {
        return EVENTUALLY(get_step(vmm) == step);
}

static void go_to(struct vmm *vmm, enum step step) {
        __atomic_store_n(&vmm->step, step, __ATOMIC_RELEASE);
}

static int vmm_main(void *arg) {
        struct vmm *vmm = arg;
        pb_client *client = child_connect(vmm->broker, PB_ROLE_VMM);

        CHILD_CHECK(client && pb_attach_vmm(client, NULL) == 0);
        CHILD_CHECK(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        CHILD_CHECK(pb_set_fill(client, true) == 0);
        go_to(vmm, STEP_COMPLETE);
        for (;;) {
                CHILD_CHECK(EVENTUALLY(get_step(vmm) == STEP_USE || get_step(vmm) == STEP_END));
                if (get_step(vmm) == STEP_END)
                        break;
                for (unsigned i = 0; i < 100000; i++)
                        CHILD_CHECK(pb_ensure(client, (uint64_t) (i % PAGES) * TEST_PAGE, TEST_PAGE, PB_WRITE) == 0);
                CHILD_CHECK(content_is_right(client, images, 0, PAGES * TEST_PAGE));
                go_to(vmm, STEP_USED);
        }
        return child_disconnect(client) ? 0 : 1;
}

/* Neither when everything is used, nor when nothing is. */
TEST(done, broker_does_not_run_at_all) {
        struct vmm *vmm = mmap(NULL, sizeof *vmm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct activity before, after;
        struct test_broker broker;
        pid_t pid;

        require_uffd();
        cr_assert(vmm != MAP_FAILED);
        start(&broker, "--heal-interval=0.02");
        vmm->broker = &broker;
        pid = test_child_start((uid_t) -1, vmm_main, vmm);
        cr_assert(is_at(vmm, STEP_COMPLETE));
        cr_assert(is_taken_down(&broker));
        cr_assert(EVENTUALLY(is_quiet(broker.pid)));
        /* What had been begun before may end in the first stretches, on a machine that is busy; what comes again and again, a
         * timer or a request for each use, is in all of them. */
        for (unsigned i = 0; i < 10; i++) {
                before = read_activity(broker.pid);
                go_to(vmm, STEP_USE);
                cr_assert(is_at(vmm, STEP_USED));
                (void) usleep(1000000); /* the stretch that is measured */
                after = read_activity(broker.pid);
                if (after.n_runs == before.n_runs)
                        break;
        }
        cr_assert_eq(after.n_runs, before.n_runs, "it ran %" PRIu64 " times", after.n_runs - before.n_runs);
        cr_assert_eq(after.run_ns, before.run_ns, "it ran for %" PRIu64 " ns", after.run_ns - before.run_ns);
        go_to(vmm, STEP_END);
        cr_assert_eq(test_child_wait(pid), 0);
        (void) munmap(vmm, sizeof *vmm);
        stop(&broker);
}

/* What a client may do without a fetch goes on. */
TEST(done, discard_and_new_clients_still_work) {
        static const char zeros[TEST_PAGE];
        struct test_broker broker;
        pb_client *client, *late;

        start(&broker, "--io=threads");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, PAGES * TEST_PAGE));
        cr_assert(is_taken_down(&broker));
        late = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(ensure_is_right(late, images, 0, PAGES * TEST_PAGE));
        cr_assert_eq(pb_discard(client, get_region(client, 0).gpa, TEST_PAGE), 0);
        cr_assert_eq(memcmp(get_region(late, 0).addr, zeros, TEST_PAGE), 0);
        cr_assert(content_is_right(late, images, TEST_PAGE, (PAGES - 1) * TEST_PAGE));
        late = test_disconnect(late);
        client = test_disconnect(client);
        stop(&broker);
}

/* The snapshot may be removed when all is here: the broker that carries on later has no use for it. */
TEST(done, next_broker_does_not_need_the_source) {
        struct test_broker broker;
        pb_client *client;

        test_image_make(&image, &(struct test_image_spec) { .seed = 77, .n_pages = 512 });
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { TEST_MEMORY("ram0", &image), NULL },
                                   });
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(test_broker_will_log(&broker, "memory ram0: nothing is left to be read of file:"));
        cr_assert_eq(unlink(image.path), 0);
        test_broker_kill_served(&broker);
        test_broker_wait_next(&broker);
        test_ensure_and_check(client, &image, 0, 512 * TEST_PAGE);
        client = test_disconnect(client);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        test_ensure_and_check(client, &image, 0, 512 * TEST_PAGE);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
