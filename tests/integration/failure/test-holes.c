/* SPDX-License-Identifier: MIT */
/*
 * Holes in guest memory, made by a discard (zeros from then on) or by an unmodified VMM (a balloon punches through the
 * descriptor, or zaps its mapping): under a present bit a hole is zeros, an absent page keeps its source.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/integration/failure/failure.h"
#include "tests/integration/peer/peer.h"
#include "tests/lib/uffd.h"

static char *memory_of(struct failure *f) {
        return get_region(f->client, 0).addr;
}

static bool pages_are_zero(struct failure *f, uint64_t first, uint64_t n) {
        return is_zero(memory_of(f) + first * TEST_PAGE, n * TEST_PAGE);
}

static bool pages_are_right(struct failure *f, uint64_t first, uint64_t n) {
        return content_is_right(f->client, f->images, first * TEST_PAGE, n * TEST_PAGE);
}

static void discard_pages(struct failure *f, uint64_t first, uint64_t n) {
        int r = pb_discard(f->client, first * TEST_PAGE, n * TEST_PAGE);

        cr_assert(r == 0, "pb_discard: %s: %s", strerror(-r), pb_explain(f->client));
}

/* As a VMM's balloon does it. */
static void punch_pages(struct failure *f, uint64_t first, uint64_t n) {
        cr_assert_eq(fallocate(get_region(f->client, 0).fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t) (first * TEST_PAGE), (off_t) (n * TEST_PAGE)),
                     0);
}

/* ---- discards against reads under way ---- */

TEST(holes, prefetch_under_way_does_not_bring_back_what_was_discarded) {
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        test_gate_hold(&f.gate, 64 * TEST_PAGE, 64 * TEST_PAGE);
        cr_assert_eq(pb_prefetch(f.client, 64 * TEST_PAGE, 64 * TEST_PAGE), 0);
        test_gate_wait_held(&f.gate, 64 * TEST_PAGE, 64 * TEST_PAGE, 1);
        discard_pages(&f, 70, 10);
        memset(memory_of(&f) + 75 * TEST_PAGE, 'w', TEST_PAGE);
        test_gate_open(&f.gate);
        cr_assert(ensure_is_right(f.client, f.images, 64 * TEST_PAGE, 6 * TEST_PAGE));
        cr_assert(ensure_is_right(f.client, f.images, 80 * TEST_PAGE, 48 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(f.client).pages_in_flight == 0)); /* the late bytes have come */
        cr_assert(pages_are_zero(&f, 70, 5) && pages_are_zero(&f, 76, 4));
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(memory_of(&f)[75 * TEST_PAGE + i], 'w');
        failure_stop(&f);
}

TEST(holes, everybody_who_waits_for_a_discarded_page_is_answered) {
        struct ensure_call calls[4];
        pb_client *clients[4];
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        test_gate_hold(&f.gate, 10 * TEST_PAGE, TEST_PAGE);
        for (unsigned i = 0; i < 4; i++) {
                clients[i] = test_connect(&f.broker, PB_ROLE_DEVICE);
                ensure_start(&calls[i], clients[i], 10 * TEST_PAGE, TEST_PAGE, PB_READ);
        }
        cr_assert(EVENTUALLY(get_stats(f.client).faults_linked == 4));
        test_gate_wait_held(&f.gate, 10 * TEST_PAGE, TEST_PAGE, 1);
        discard_pages(&f, 10, 1); /* while the source still does not answer */
        for (unsigned i = 0; i < 4; i++)
                cr_assert_eq(ensure_wait(&calls[i]), 0);
        cr_assert(pages_are_zero(&f, 10, 1));
        test_gate_open(&f.gate);
        cr_assert(ensure_is_right(f.client, f.images, 11 * TEST_PAGE, 20 * TEST_PAGE));
        cr_assert(pages_are_zero(&f, 10, 1));
        for (unsigned i = 0; i < 4; i++)
                clients[i] = test_disconnect(clients[i]);
        failure_stop(&f);
}

/* ---- between publishing and punching ---- */

/* Writes guest memory from memory that never comes: the inode's lock is held, and no hole can be punched. */
static int hold_inode_lock(void *arg) {
        const struct test_broker *broker = arg;
        pb_client *client = child_connect(broker, PB_ROLE_DEVICE);
        char *never = mmap(NULL, TEST_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct pb_region region;
        int uffd = test_uffd_open();
        struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

        CHILD_CHECK(client && pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(never != MAP_FAILED && uffd >= 0 && test_uffd_enable(uffd, 0) == 0);
        reg.range = (struct uffdio_range) { (uintptr_t) never, TEST_PAGE };
        CHILD_CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        (void) pwrite(region.fd, never, TEST_PAGE, 0);
        return 1;
}

static bool is_in_pwrite(pid_t pid) {
        return test_thread_syscall(pid, pid) == SYS_pwrite64 && strchr("SD", test_thread_state(pid, pid));
}

struct discard_call {
        struct failure *f;
        uint64_t first, n;
};

static void *discard_in_thread(void *arg) {
        struct discard_call *call = arg;

        return pb_discard(call->f->client, call->first * TEST_PAGE, call->n * TEST_PAGE) == 0 ? NULL : call;
}

TEST(holes, nothing_is_fetched_between_publishing_and_punching) {
        struct discard_call call;
        struct failure f;
        pb_client *device;
        pthread_t thread;
        void *result;
        pid_t pid;

        require_uffd();
        failure_start(&f, "", "--io=auto", "--seccomp=on");
        device = test_connect(&f.broker, PB_ROLE_DEVICE);
        pid = test_child_start((uid_t) -1, hold_inode_lock, &f.broker);
        cr_assert(EVENTUALLY(is_in_pwrite(pid)));
        call = (struct discard_call) { &f, 70, 10 };
        cr_assert_eq(pthread_create(&thread, NULL, discard_in_thread, &call), 0);
        cr_assert(EVENTUALLY(pb_is_present(device, 70 * TEST_PAGE, 10 * TEST_PAGE)));
        cr_assert_eq(pb_prefetch(device, 64 * TEST_PAGE, 64 * TEST_PAGE), 0);
        test_ensure(device, 64 * TEST_PAGE, 64 * TEST_PAGE, PB_READ);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        cr_assert(pthread_join(thread, &result) == 0 && !result);
        cr_assert(pages_are_zero(&f, 70, 10));
        cr_assert(pages_are_right(&f, 64, 6) && pages_are_right(&f, 80, 48));
        cr_assert_eq(test_gate_count(&f.gate, 70 * TEST_PAGE, 10 * TEST_PAGE), 0);
        device = test_disconnect(device);
        failure_stop(&f);
}

/* ---- huge pages ---- */

static int read_zeros_between(pb_client *client, const struct peer_task *task) {
        CHILD_CHECK(step_tell(task->steps));
        CHILD_CHECK(content_is_right(client, task->images, 0, 100 * TEST_PAGE));
        CHILD_CHECK(is_zero(peer_memory(client) + 100 * TEST_PAGE, 3 * TEST_PAGE));
        CHILD_CHECK(content_is_right(client, task->images, 103 * TEST_PAGE, (512 - 103) * TEST_PAGE));
        return 0;
}

TEST(holes, small_pages_are_discarded_inside_a_huge_page_that_a_peer_waits_for) {
        struct peer_task task = { .run = read_zeros_between };
        struct steps steps;
        struct failure f;
        pid_t pid;

        require_uffd();
        require_hugepages(2, HUGE_2M);
        steps = steps_new();
        failure_start(&f, ",huge=2M", "--io=auto", "--seccomp=on");
        test_gate_hold(&f.gate, 0, 512 * TEST_PAGE);
        task.broker = &f.broker;
        task.images = f.images;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        test_gate_wait_held(&f.gate, 0, 512 * TEST_PAGE, 1);
        discard_pages(&f, 100, 3);
        test_gate_open(&f.gate);
        cr_assert_eq(test_child_wait(pid), 0);
        steps_done(&steps);
        failure_stop(&f);
}

/* ---- an unmodified VMM's balloon: holes through the descriptor ---- */

TEST(holes, absent_page_that_was_punched_keeps_its_source) {
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        punch_pages(&f, 0, 100);
        cr_assert(!pb_is_present(f.client, 0, TEST_PAGE));
        cr_assert(ensure_is_right(f.client, f.images, 0, 200 * TEST_PAGE));
        failure_stop(&f);
}

TEST(holes, page_that_is_punched_while_it_is_read_comes_from_its_source) {
        struct ensure_call call;
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        test_gate_hold(&f.gate, 0, 64 * TEST_PAGE);
        ensure_start(&call, f.client, 0, 64 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 0, 64 * TEST_PAGE, 1);
        punch_pages(&f, 0, 64);
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0);
        cr_assert(pages_are_right(&f, 0, 64));
        failure_stop(&f);
}

TEST(holes, present_page_that_was_punched_is_zeros_and_is_not_fetched_again) {
        struct failure f;
        uint64_t reads;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        cr_assert(ensure_is_right(f.client, f.images, 0, 200 * TEST_PAGE));
        reads = test_gate_count(&f.gate, 0, 200 * TEST_PAGE);
        punch_pages(&f, 50, 50);
        test_ensure(f.client, 0, 200 * TEST_PAGE, PB_READ);
        cr_assert(pages_are_zero(&f, 50, 50));
        cr_assert(pages_are_right(&f, 0, 50) && pages_are_right(&f, 100, 100));
        cr_assert_eq(test_gate_count(&f.gate, 0, 200 * TEST_PAGE), reads);
        failure_stop(&f);
}

/* ---- the same seen through userfaultfd ---- */

static int deflate(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);
        struct pb_region region;

        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        CHILD_CHECK(content_is_right(client, task->images, 0, 32 * TEST_PAGE));
        /* Inflated: pages 16 to 47, of which the first half is present. QEMU does both. */
        CHILD_CHECK(fallocate(region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16 * TEST_PAGE, 32 * TEST_PAGE) == 0);
        CHILD_CHECK(madvise(memory + 16 * TEST_PAGE, 32 * TEST_PAGE, MADV_DONTNEED) == 0);
        /* Deflated. */
        CHILD_CHECK(is_zero(memory + 16 * TEST_PAGE, 16 * TEST_PAGE));
        CHILD_CHECK(content_is_right(client, task->images, 32 * TEST_PAGE, 16 * TEST_PAGE));
        memset(memory + 20 * TEST_PAGE, 'd', TEST_PAGE);
        CHILD_CHECK(memory[20 * TEST_PAGE] == 'd' && memory[21 * TEST_PAGE - 1] == 'd');
        CHILD_CHECK(content_is_right(client, task->images, 0, 16 * TEST_PAGE));
        return 0;
}

static int zap(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client);

        CHILD_CHECK(content_is_right(client, task->images, 0, 32 * TEST_PAGE));
        memset(memory + 5 * TEST_PAGE, 's', TEST_PAGE);
        CHILD_CHECK(madvise(memory, 64 * TEST_PAGE, MADV_DONTNEED) == 0);
        CHILD_CHECK(memory[5 * TEST_PAGE] == 's' && memory[6 * TEST_PAGE - 1] == 's');
        CHILD_CHECK(content_is_right(client, task->images, 0, 5 * TEST_PAGE));
        CHILD_CHECK(content_is_right(client, task->images, 6 * TEST_PAGE, 58 * TEST_PAGE));
        return 0;
}

/* Over and over, beside the fill: what is present when it is hit is zeros, what is not comes. */
static int breathe(pb_client *client, const struct peer_task *task) {
        char *memory = peer_memory(client), page[TEST_PAGE];
        uint64_t seed = 5;
        struct pb_region region;

        CHILD_CHECK(pb_get_region(client, 0, &region) == 0);
        for (unsigned round = 0; round < 200; round++) {
                uint64_t first = next_random(&seed) % (FAILURE_PAGES - 8) & ~1ull; /* odd pages stay what they are */

                for (uint64_t i = first; i < first + 8; i += 2) {
                        CHILD_CHECK(fallocate(region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) (i * TEST_PAGE),
                                              TEST_PAGE) == 0);
                        CHILD_CHECK(madvise(memory + i * TEST_PAGE, TEST_PAGE, MADV_DONTNEED) == 0);
                }
                for (uint64_t i = first; i < first + 8; i++) {
                        memcpy(page, memory + i * TEST_PAGE, TEST_PAGE);
                        CHILD_CHECK(test_image_expect(task->images[0], i, page) || (i % 2 == 0 && is_zero(page, TEST_PAGE)));
                }
        }
        for (uint64_t i = 1; i < FAILURE_PAGES; i += 2)
                CHILD_CHECK(test_image_expect(task->images[0], i, memory + i * TEST_PAGE));
        return 0;
}

static void peer_does(int (*run)(pb_client *client, const struct peer_task *task), const char *option) {
        struct peer_task task = { .run = run };
        struct failure f;

        require_uffd();
        failure_start(&f, "", option, "--fault-around=4K");
        task.broker = &f.broker;
        task.images = f.images;
        peer_run(&task);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        failure_stop(&f);
}

TEST(holes, balloon_of_a_peer_loses_nothing_but_what_was_present) {
        peer_does(deflate, "--io=auto");
}

TEST(holes, dontneed_of_a_peer_loses_nothing) {
        peer_does(zap, "--io=auto");
}

TEST(holes, balloon_that_breathes_beside_the_fill_loses_no_neighbour) {
        peer_does(breathe, "--fill=on");
}

TEST(holes, balloon_that_breathes_without_a_fill_loses_no_neighbour) {
        peer_does(breathe, "--io=threads");
}
