/* SPDX-License-Identifier: MIT */
/* The broker's own memory stays in RAM; the guest's is the kernel's to swap out. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"

#define GUEST_PAGES 512u

static struct test_image image;
static const struct test_image *const images[] = { &image };

/* What /proc/PID/smaps says of all mappings whose line ends with `name`. */
struct mappings {
        unsigned n, n_locked; /* n_locked: with the flag "lo" */
        uint64_t rss_kib, locked_kib;
};

static bool ends_with(const char *text, const char *end) {
        size_t n = strlen(text), m = strlen(end);

        return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_mapping_line(const char *line) {
        uint64_t start, end;

        return sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2;
}

static struct mappings read_mappings(pid_t pid, const char *permissions, const char *name) {
        _cleanup_fclose_ FILE *f = NULL;
        struct mappings sum = { 0 };
        char path[64], line[512];
        bool meant = false;

        (void) snprintf(path, sizeof path, "/proc/%d/smaps", (int) pid);
        f = fopen(path, "re");
        cr_assert(f);
        while (fgets(line, sizeof line, f)) {
                uint64_t kib;

                line[strcspn(line, "\n")] = 0;
                if (is_mapping_line(line)) {
                        meant = ends_with(line, name) && strstr(line, permissions);
                        sum.n += meant;
                } else if (meant && sscanf(line, "Rss: %" SCNu64, &kib) == 1)
                        sum.rss_kib += kib;
                else if (meant && sscanf(line, "Locked: %" SCNu64, &kib) == 1)
                        sum.locked_kib += kib;
                else if (meant && strncmp(line, "VmFlags:", 8) == 0)
                        sum.n_locked += strstr(line, " lo") != NULL;
        }
        return sum;
}

static void serve_all(const struct test_broker *broker) {
        pb_client *client = test_connect(broker, PB_ROLE_DEVICE);

        cr_assert(ensure_is_right(client, images, 0, GUEST_PAGES * TEST_PAGE));
        client = test_disconnect(client);
}

static void assert_locked(pid_t pid, const char *permissions, const char *name) {
        struct mappings m = read_mappings(pid, permissions, name);

        cr_assert(m.n > 0, "no mapping %s", name);
        cr_assert_eq(m.n_locked, m.n, "%u of %u mappings of %s are locked", m.n_locked, m.n, name);
        cr_assert(m.locked_kib > 0 && m.locked_kib <= m.rss_kib, "%s: %" PRIu64 " KiB locked of %" PRIu64, name,
                  m.locked_kib, m.rss_kib);
}

static bool is_limited(void) {
        struct rlimit limit;

        cr_assert(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        if (limit.rlim_max == RLIM_INFINITY)
                return false;
        /* Who may raise it has it raised by the broker. */
        return setrlimit(RLIMIT_MEMLOCK, &(struct rlimit) { limit.rlim_cur, RLIM_INFINITY }) < 0;
}

/* The limit that machines have by default. */
static void start_with_a_limit(struct test_broker *broker, const char *memory, const char *limit) {
        static char wrapper[160];

        if (access("/usr/bin/setpriv", X_OK) < 0 || access("/usr/bin/prlimit", X_OK) < 0)
                cr_skip_test("no setpriv or prlimit (util-linux)");
        if (getenv("PAGEBROKERD_WRAPPER"))
                cr_skip_test("$PAGEBROKERD_WRAPPER is in use");
        (void) snprintf(wrapper, sizeof wrapper,
                        "/usr/bin/prlimit --memlock=%s:%s /usr/bin/setpriv --bounding-set=-sys_resource,-ipc_lock", limit,
                        limit);
        (void) setenv("PAGEBROKERD_WRAPPER", wrapper, 1);
        TEST_BROKER_START(broker, memory, "--fill=off", "--io=threads");
}

static void assert_guest_is_not_locked(pid_t pid) {
        struct mappings m = read_mappings(pid, "rw-s", "/memfd:pagebroker:test:ram0 (deleted)");

        cr_assert(m.n > 0);
        cr_assert_eq(m.locked_kib, 0);
        cr_assert_eq(m.n_locked, 0);
        cr_assert(m.rss_kib >= GUEST_PAGES * TEST_PAGE / 1024, "nothing of it was looked at");
}

static void assert_code_and_heap_are_locked(pid_t pid) {
        assert_locked(pid, "rw-s", "/memfd:pagebroker:test:ram0:map (deleted)");
        assert_locked(pid, "r-xp", "/pagebrokerd");
        assert_locked(pid, "r-xp", "/libc.so.6");
        if (!TEST_SANITIZED)
                assert_locked(pid, "rw-p", "[heap]");
}

TEST(lock, holds_all_that_is_the_brokers_and_not_the_guests) {
        struct test_broker broker;

        require_root();
        if (is_limited())
                cr_skip_test("RLIMIT_MEMLOCK cannot be raised here");
        test_image_make(&image, &(struct test_image_spec) { .seed = 72, .n_pages = GUEST_PAGES });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off", "--io=threads");
        serve_all(&broker);
        assert_guest_is_not_locked(broker.pid);
        assert_code_and_heap_are_locked(broker.pid);
        assert_locked(broker.pid, "rw-p", "[stack]");
        cr_assert_eq(test_broker_logged(&broker, "RLIMIT_MEMLOCK"), false);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* A memory that is larger than all that could ever be locked is no reason not to lock the rest. */
TEST(lock, costs_nothing_for_a_large_guest) {
        struct test_broker broker;

        require_root();
        TEST_BROKER_START(&broker, "--memory=big,size=1T", "--fill=off");
        assert_locked(broker.pid, "r-xp", "/pagebrokerd");
        cr_assert(test_process_kib(broker.pid, "VmLck") < (1 << 20), "%lld KiB count as locked",
                  (long long) test_process_kib(broker.pid, "VmLck"));
        cr_assert(test_process_kib(broker.pid, "VmRSS") < (256 << 10));
        test_broker_stop(&broker);
}

TEST(lock, goes_as_far_as_a_limit_allows_and_says_so) {
        struct test_broker broker;

        require_root();
        if (TEST_SANITIZED)
                cr_skip_test("a sanitizer's code and heap exceed the limit");
        test_image_make(&image, &(struct test_image_spec) { .seed = 73, .n_pages = GUEST_PAGES });
        start_with_a_limit(&broker, TEST_MEMORY("ram0", &image), "8388608");
        cr_assert(test_broker_will_log(&broker, "LimitMEMLOCK=infinity"));
        serve_all(&broker);
        assert_guest_is_not_locked(broker.pid);
        assert_code_and_heap_are_locked(broker.pid);
        cr_assert_eq(test_broker_logged(&broker, "not all of these"), false);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(lock, that_is_forbidden_is_said_and_the_broker_serves) {
        struct test_broker broker;

        require_root();
        test_image_make(&image, &(struct test_image_spec) { .seed = 74, .n_pages = GUEST_PAGES });
        start_with_a_limit(&broker, TEST_MEMORY("ram0", &image), "0");
        cr_assert(test_broker_will_log(&broker, "not all of these"));
        serve_all(&broker);
        assert_guest_is_not_locked(broker.pid);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
