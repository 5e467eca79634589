/* SPDX-License-Identifier: MIT */
/* Memory is plugged in, used by everybody, and leaves when the last one has let go of it. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

#define N_PAGES 256u
#define DIMM_GPA (1ull << 32)
#define DIMM_SIZE ((uint64_t) N_PAGES * TEST_PAGE)

static const struct pb_memory_region where[] = { { .gpa = DIMM_GPA, .size = DIMM_SIZE } };

struct fixture {
        struct test_image image, dimm;
        struct test_broker broker;
        pb_client *vmm, *device;
};

static void start(struct fixture *f, const char *more, const char *option) {
        test_image_make(&f->image, &(struct test_image_spec) { .seed = 1, .n_pages = N_PAGES });
        test_image_make(&f->dimm, &(struct test_image_spec) { .seed = 2, .n_pages = N_PAGES });
        TEST_BROKER_START(&f->broker, TEST_MEMORY("ram0", &f->image), test_memory("dimm0", &f->dimm, more), option);
        f->vmm = test_connect(&f->broker, PB_ROLE_VMM);
        f->device = test_connect(&f->broker, PB_ROLE_DEVICE);
}

static void stop(struct fixture *f) {
        f->vmm = f->vmm ? test_disconnect(f->vmm) : NULL;
        f->device = f->device ? test_disconnect(f->device) : NULL;
        test_broker_stop(&f->broker);
        test_image_unlink(&f->image);
        test_image_unlink(&f->dimm);
}

static bool is_readable(pb_client *client) {
        struct pollfd p = { .fd = pb_get_fd(client), .events = POLLIN };

        return poll(&p, 1, 30000) == 1;
}

/* The next event must be this one; returns its region. */
static unsigned expect_event(pb_client *client, uint32_t type) {
        struct pb_event event = {};
        int r = 0;

        cr_assert(EVENTUALLY((r = pb_get_event(client, &event)) != 0));
        cr_assert_eq(r, 1, "%s", pb_explain(client));
        cr_assert_eq(event.type, type);
        return event.region;
}

static void plug(struct fixture *f) {
        int r = pb_add_memory(f->vmm, "dimm0", where, ELEMENTS(where));

        cr_assert_eq(r, 1, "%s", pb_explain(f->vmm));
        (void) expect_event(f->vmm, PB_EVENT_REGION_ADDED);
}

TEST(hotplug, memory_that_is_not_plugged_in_is_not_there) {
        struct fixture f;
        struct pb_region region;

        start(&f, ",plugged=off", "--fill=on");
        cr_assert_eq(pb_get_region(f.device, 0, &region), 0);
        cr_assert_eq(pb_get_region(f.device, 1, &region), -ENOENT);
        cr_assert_eq(pb_ensure(f.device, DIMM_GPA, TEST_PAGE, PB_READ), -EFAULT);
        cr_assert(EVENTUALLY(get_stats(f.vmm).complete));
        cr_assert_eq(get_stats(f.vmm).pages_total, N_PAGES);
        stop(&f);
}

TEST(hotplug, everybody_gets_the_new_region_with_its_content) {
        struct fixture f;
        struct pb_region region;
        pb_client *late;
        unsigned index;

        start(&f, ",plugged=off", "--fill=off");
        plug(&f);
        test_ensure_and_check(f.vmm, &f.dimm, DIMM_GPA, 3 * TEST_PAGE);
        cr_assert(is_readable(f.device));
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert_eq(pb_get_region(f.device, index, &region), 0);
        cr_assert_eq(region.gpa, DIMM_GPA);
        cr_assert_eq(region.size, DIMM_SIZE);
        cr_assert_eq(region.flags, 0);
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, DIMM_SIZE);
        /* One memory, seen by both. */
        memcpy((char *) region.addr + 5 * TEST_PAGE, "hello", 5);
        test_ensure(f.vmm, DIMM_GPA + 5 * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert(memcmp(pb_translate(f.vmm, DIMM_GPA + 5 * TEST_PAGE, 5), "hello", 5) == 0);
        /* And by who comes later, as if it had always been there. */
        late = test_connect(&f.broker, PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_region(late, 1, &region), 0);
        test_ensure_and_check(late, &f.dimm, DIMM_GPA + 9 * TEST_PAGE, 9 * TEST_PAGE);
        late = test_disconnect(late);
        stop(&f);
}

TEST(hotplug, fill_brings_what_was_plugged_in_after_its_end) {
        struct fixture f;

        start(&f, ",plugged=off", "--fill=on");
        cr_assert(EVENTUALLY(get_stats(f.vmm).complete));
        plug(&f);
        cr_assert(EVENTUALLY(get_stats(f.vmm).pages_present == 2 * N_PAGES));
        (void) expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert(pb_is_present(f.device, DIMM_GPA, DIMM_SIZE));
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, DIMM_SIZE);
        stop(&f);
}

static uint64_t blocks_of(pb_client *client, unsigned region) {
        struct pb_region r = get_region(client, region);
        struct stat st;

        cr_assert(fstat(r.fd, &st) == 0);
        return (uint64_t) st.st_blocks;
}

TEST(hotplug, memory_leaves_when_all_have_let_go_and_is_zeros_afterwards) {
        struct fixture f;
        unsigned index, of_vmm = 1;
        int spare;

        start(&f, ",plugged=off", "--fill=off");
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, 64 * TEST_PAGE);
        cr_assert_gt(blocks_of(f.device, index), 0);
        spare = dup(get_region(f.device, index).fd);
        cr_assert_eq(pb_release_region(f.vmm, of_vmm), 0, "%s", pb_explain(f.vmm));
        cr_assert_eq(pb_release_region(f.device, index), 0, "%s", pb_explain(f.device));
        cr_assert_null(pb_translate(f.device, DIMM_GPA, 1));
        cr_assert_eq(pb_ensure(f.device, DIMM_GPA, 1, PB_READ), -EFAULT);
        cr_assert_eq(pb_release_region(f.device, index), -ENOENT);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        /* Its pages are the kernel's again. */
        cr_assert(EVENTUALLY(({ struct stat st; fstat(spare, &st) == 0 && st.st_blocks == 0; })));
        (void) close(spare);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), -ENOENT);
        /* Once more: nothing of what it held, nor of the source. */
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        test_ensure(f.device, DIMM_GPA, DIMM_SIZE, PB_READ);
        cr_assert(is_zero(pb_translate(f.device, DIMM_GPA, DIMM_SIZE), DIMM_SIZE));
        stop(&f);
}

TEST(hotplug, removal_waits_for_who_uses_it_and_names_him) {
        struct fixture f;
        unsigned index;

        start(&f, ",plugged=off", "--release-timeout=0.2");
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), -EBUSY);
        cr_assert(strstr(pb_explain(f.vmm), "still held by") && strstr(pb_explain(f.vmm), "pid"), "%s", pb_explain(f.vmm));
        cr_assert_eq(expect_event(f.device, PB_EVENT_REGION_LEAVING), index);
        /* It is served as ever, until its last user lets go. */
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA + 200 * TEST_PAGE, 50 * TEST_PAGE);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", where, 1), -EEXIST);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert(EVENTUALLY(pb_remove_memory(f.vmm, 1) == -ENOENT)); /* it has left */
        plug(&f);
        stop(&f);
}

TEST(hotplug, who_has_gone_holds_nothing) {
        struct fixture f;

        start(&f, ",plugged=off", "--fill=off");
        plug(&f);
        (void) expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        f.device = test_disconnect(f.device);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        stop(&f);
}

static void *remove_dimm(void *arg) {
        const struct fixture *f = arg;

        return pb_remove_memory(f->vmm, 1) == 0 ? NULL : arg;
}

TEST(hotplug, removal_that_waits_keeps_nobody_in_its_process_waiting) {
        struct pb_event event;
        struct fixture f;
        pthread_t thread;
        unsigned index;
        void *failed;

        start(&f, ",plugged=off", "--release-timeout=600");
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pthread_create(&thread, NULL, remove_dimm, &f), 0);
        cr_assert_eq(expect_event(f.device, PB_EVENT_REGION_LEAVING), index);
        /* Nobody has let go of it yet. */
        cr_assert_eq(pb_get_event(f.vmm, &event), 0);
        cr_assert_eq(get_stats(f.vmm).pages_total, 2 * N_PAGES);
        test_ensure_and_check(f.vmm, &f.image, 0, TEST_PAGE);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert_eq(pthread_join(thread, &failed), 0);
        cr_assert_null(failed, "%s", pb_explain(f.vmm));
        stop(&f);
}

/* The page is wanted, and does not come, while the memory is to leave: it stays until the wait is over and its user lets go. */
TEST(hotplug, removal_waits_for_who_waits_for_a_page) {
        struct ensure_call call;
        struct test_gate gate;
        struct fixture f;
        pthread_t thread;
        unsigned index;
        void *failed;

        require_fuse();
        test_image_make(&f.image, &(struct test_image_spec) { .seed = 1, .n_pages = N_PAGES });
        test_image_make(&f.dimm, &(struct test_image_spec) { .seed = 2, .n_pages = N_PAGES });
        test_gate_start(&gate, &f.dimm);
        test_gate_hold(&gate, 7 * TEST_PAGE, TEST_PAGE);
        TEST_BROKER_START(&f.broker, TEST_MEMORY("ram0", &f.image), test_gate_memory("dimm0", &gate, ",plugged=off"),
                          "--fill=off", "--read-around=4K", "--release-timeout=600", "--source-deadline=600");
        f.vmm = test_connect(&f.broker, PB_ROLE_VMM);
        f.device = test_connect(&f.broker, PB_ROLE_DEVICE);
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        ensure_start(&call, f.device, DIMM_GPA + 7 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_gate_wait_held(&gate, 7 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pthread_create(&thread, NULL, remove_dimm, &f), 0);
        cr_assert_eq(expect_event(f.device, PB_EVENT_REGION_LEAVING), index);
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA + 100 * TEST_PAGE, TEST_PAGE);
        test_gate_open(&gate);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(test_image_expect(&f.dimm, 7, pb_translate(f.device, DIMM_GPA + 7 * TEST_PAGE, TEST_PAGE)));
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert_eq(pthread_join(thread, &failed), 0);
        cr_assert_null(failed, "%s", pb_explain(f.vmm));
        stop(&f);
        test_gate_stop(&gate);
}

TEST(hotplug, only_the_vmm_may_and_only_what_was_declared) {
        struct fixture f;
        const struct pb_memory_region over = { .gpa = 0, .size = DIMM_SIZE }, odd = { .gpa = DIMM_GPA + 1, .size = DIMM_SIZE };
        const struct pb_memory_region large = { .gpa = DIMM_GPA, .size = 2 * DIMM_SIZE };

        start(&f, ",plugged=off", "--fill=off");
        cr_assert_eq(pb_add_memory(f.device, "dimm0", where, 1), -EACCES);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm1", where, 1), -ENOENT);
        cr_assert_eq(pb_add_memory(f.vmm, "ram0", where, 1), -EEXIST);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", &over, 1), -EINVAL);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", &odd, 1), -EINVAL);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", &large, 1), -EINVAL);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", where, 0), -EINVAL);
        cr_assert_eq(pb_remove_memory(f.vmm, 0), -EPERM);
        cr_assert_eq(pb_remove_memory(f.vmm, 7), -ENOENT);
        plug(&f);
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", where, 1), -EEXIST);
        stop(&f);
}

/* The VMM's own accesses to what is plugged in after it has attached, twice. In a process of its own: a userfaultfd stays
 * with its process. */
static int use_as_vmm(void *arg) {
        const struct fixture *f = arg;
        pb_client *vmm = child_connect(&f->broker, PB_ROLE_VMM);
        struct pb_region region;
        struct pb_event event;
        bool ok = vmm && pb_attach_vmm(vmm, NULL) == 0;

        ok = ok && pb_add_memory(vmm, "dimm0", where, 1) == 1 && pb_get_event(vmm, &event) == 1 && pb_get_region(vmm, 1, &region) == 0;
        ok = ok && test_image_compare(&f->dimm, 0, N_PAGES, region.addr) == TEST_IMAGE_NONE;
        ok = ok && pb_release_region(vmm, 1) == 0 && pb_remove_memory(vmm, 1) == 0;
        ok = ok && pb_add_memory(vmm, "dimm0", where, 1) == 1 && pb_get_region(vmm, 1, &region) == 0;
        ok = ok && is_zero(region.addr, DIMM_SIZE);
        if (vmm && !ok)
                (void) fprintf(stderr, "%s\n", pb_explain(vmm));
        return vmm && child_disconnect(vmm) && ok ? 0 : 1;
}

TEST(hotplug, new_region_of_an_attached_vmm_is_under_userfaultfd) {
        struct fixture f;

        require_uffd();
        start(&f, ",plugged=off", "--fill=off");
        f.device = test_disconnect(f.device);
        f.vmm = test_disconnect(f.vmm); /* they would hold it */
        cr_assert_eq(test_child_wait(test_child_start(0, use_as_vmm, &f)), 0);
        f.vmm = test_connect(&f.broker, PB_ROLE_VMM);
        cr_assert(get_stats(f.vmm).faults_peer >= N_PAGES / 16);
        stop(&f);
}

/* Its event is taken after the attach. */
static int plug_then_attach(void *arg) {
        const struct fixture *f = arg;
        pb_client *vmm = child_connect(&f->broker, PB_ROLE_VMM);
        struct pb_region region;
        struct pb_event event;
        bool ok = vmm && pb_add_memory(vmm, "dimm0", where, 1) == 1 && pb_attach_vmm(vmm, NULL) == 0;

        ok = ok && pb_get_event(vmm, &event) == 1 && pb_get_region(vmm, event.region, &region) == 0;
        ok = ok && test_image_compare(&f->dimm, 0, N_PAGES, region.addr) == TEST_IMAGE_NONE;
        ok = ok && pb_release_region(vmm, event.region) == 0 && pb_remove_memory(vmm, 1) == 0;
        if (vmm && !ok)
                (void) fprintf(stderr, "%s\n", pb_explain(vmm));
        return vmm && child_disconnect(vmm) && ok ? 0 : 1;
}

TEST(hotplug, region_that_was_plugged_in_before_the_attach_is_under_userfaultfd_once) {
        struct fixture f;

        require_uffd();
        start(&f, ",plugged=off", "--fill=off");
        f.device = test_disconnect(f.device);
        f.vmm = test_disconnect(f.vmm);
        cr_assert_eq(test_child_wait(test_child_start(0, plug_then_attach, &f)), 0);
        f.vmm = test_connect(&f.broker, PB_ROLE_VMM);
        cr_assert(get_stats(f.vmm).faults_peer >= N_PAGES / 16);
        stop(&f);
}

TEST(hotplug, comes_and_goes_a_hundred_times_without_growth) {
        struct fixture f;
        long before = 0;

        start(&f, ",plugged=off", "--fill=off");
        for (unsigned i = 0; i < 100; i++) {
                plug(&f);
                test_ensure(f.vmm, DIMM_GPA, DIMM_SIZE, PB_READ);
                cr_assert_eq(pb_release_region(f.vmm, 1), 0);
                cr_assert_eq(expect_event(f.device, PB_EVENT_REGION_ADDED), 1);
                cr_assert_eq(pb_release_region(f.device, 1), 0);
                cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
                if (i == 10)
                        before = test_broker_rss_kib(&f.broker);
        }
        cr_assert(TEST_SANITIZED || test_broker_rss_kib(&f.broker) < before + 256, "%ld KiB after %ld",
                  test_broker_rss_kib(&f.broker), before);
        stop(&f);
}

/* ---- over the death of the broker ---- */

static void start_supervised(struct fixture *f, const char *option) {
        test_image_make(&f->image, &(struct test_image_spec) { .seed = 3, .n_pages = N_PAGES });
        test_image_make(&f->dimm, &(struct test_image_spec) { .seed = 4, .n_pages = N_PAGES });
        test_image_make_cold(&f->image);
        test_image_make_cold(&f->dimm);
        test_broker_start(&f->broker, &(struct test_broker_options) {
                                              .supervised = true,
                                              .args = (const char *const[]) { TEST_MEMORY("ram0", &f->image),
                                                                              test_memory("dimm0", &f->dimm, ",plugged=off"),
                                                                              "--fill=off", option, NULL },
                                      });
        f->vmm = test_connect(&f->broker, PB_ROLE_VMM);
        f->device = test_connect(&f->broker, PB_ROLE_DEVICE);
}

static void restart(struct fixture *f) {
        test_broker_kill_served(&f->broker);
        test_broker_wait_next(&f->broker);
}

TEST(hotplug, plugged_memory_and_what_was_written_outlive_the_broker) {
        struct fixture f;
        unsigned index;
        char *dimm;

        start_supervised(&f, "--release-timeout=60");
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        dimm = get_region(f.device, index).addr;
        test_ensure(f.device, DIMM_GPA, TEST_PAGE, PB_OVERWRITE);
        memset(dimm, 1, TEST_PAGE);
        restart(&f);
        test_ensure(f.device, DIMM_GPA + TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        memset(dimm + TEST_PAGE, 2, TEST_PAGE);
        test_ensure_and_check(f.vmm, &f.dimm, DIMM_GPA + 2 * TEST_PAGE, DIMM_SIZE - 2 * TEST_PAGE);
        test_ensure(f.vmm, DIMM_GPA, 2 * TEST_PAGE, PB_READ);
        cr_assert(((char *) pb_translate(f.vmm, DIMM_GPA, 1))[TEST_PAGE - 1] == 1);
        cr_assert(((char *) pb_translate(f.vmm, DIMM_GPA + TEST_PAGE, 1))[TEST_PAGE - 1] == 2);
        /* And it leaves as ever. */
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        stop(&f);
}

TEST(hotplug, who_was_away_finds_what_was_plugged_in) {
        struct fixture f;

        start_supervised(&f, "--release-timeout=60");
        restart(&f);
        /* Only the VMM has come back by now: the device makes no call. */
        plug(&f);
        test_ensure_and_check(f.device, &f.image, 0, TEST_PAGE);
        (void) expect_event(f.device, PB_EVENT_REGION_ADDED);
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, DIMM_SIZE);
        stop(&f);
}

TEST(hotplug, removal_goes_on_with_the_next_broker_and_waits_for_who_uses_it) {
        struct fixture f;
        pthread_t thread;
        unsigned index;
        void *failed;

        start_supervised(&f, "--release-timeout=120");
        plug(&f);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, 8 * TEST_PAGE);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pthread_create(&thread, NULL, remove_dimm, &f), 0);
        cr_assert_eq(expect_event(f.device, PB_EVENT_REGION_LEAVING), index);
        restart(&f);
        /* Still ours. */
        test_ensure_and_check(f.device, &f.dimm, DIMM_GPA, DIMM_SIZE);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert_eq(pthread_join(thread, &failed), 0);
        cr_assert_null(failed, "%s", pb_explain(f.vmm));
        stop(&f);
}

/* ---- what no broker saw ---- */

static int use_until_killed(void *arg) {
        const struct fixture *f = arg;
        pb_client *device = child_connect(&f->broker, PB_ROLE_DEVICE);

        CHILD_CHECK(device);
        CHILD_CHECK(pb_ensure(device, DIMM_GPA, TEST_PAGE, PB_READ) == 0);
        (void) pause();
        return 0;
}

/* It ends while no broker runs: the next one must not wait for it. */
TEST(hotplug, who_ended_while_no_broker_ran_holds_nothing) {
        struct fixture f;
        pid_t pid;

        start_supervised(&f, "--release-timeout=600");
        plug(&f);
        f.device = test_disconnect(f.device);
        pid = test_child_start(0, use_until_killed, &f);
        cr_assert(EVENTUALLY(get_stats(f.vmm).pages_present > 0));
        cr_assert(kill(f.broker.pid, SIGSTOP) == 0);
        test_broker_kill_served(&f.broker);
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
        cr_assert(kill(f.broker.pid, SIGCONT) == 0);
        test_broker_wait_next(&f.broker);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        stop(&f);
}

/* A part of it has been released, which the next broker cannot know. */
TEST(hotplug, who_uses_only_one_region_of_it_goes_on_with_the_next_broker) {
        const struct pb_memory_region two[] = { { .gpa = DIMM_GPA, .size = DIMM_SIZE / 2 },
                                                { .gpa = 2 * DIMM_GPA, .size = DIMM_SIZE / 2, .offset = DIMM_SIZE / 2 } };
        struct fixture f;
        unsigned index;

        start_supervised(&f, "--release-timeout=600");
        cr_assert_eq(pb_add_memory(f.vmm, "dimm0", two, 2), 1, "%s", pb_explain(f.vmm));
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        index = expect_event(f.device, PB_EVENT_REGION_ADDED);
        restart(&f);
        cr_assert_eq(get_region(f.device, index).gpa, 2 * DIMM_GPA);
        cr_assert_eq(pb_ensure(f.device, 2 * DIMM_GPA, DIMM_SIZE / 2, PB_READ), 0, "%s", pb_explain(f.device));
        cr_assert_eq(test_image_compare(&f.dimm, N_PAGES / 2, N_PAGES / 2, get_region(f.device, index).addr), TEST_IMAGE_NONE);
        cr_assert_eq(pb_ensure(f.device, DIMM_GPA, TEST_PAGE, PB_READ), -EFAULT);
        cr_assert_eq(pb_release_region(f.device, index), 0);
        cr_assert_eq(pb_release_region(f.vmm, 1), 0);
        cr_assert_eq(pb_release_region(f.vmm, 2), 0);
        cr_assert_eq(pb_remove_memory(f.vmm, 1), 0, "%s", pb_explain(f.vmm));
        stop(&f);
}
