/* SPDX-License-Identifier: MIT */
/* pagebroker-run's own words: what it refuses, before the program starts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/run/arguments.h"
#include "client/run/program.h"
#include "common/cleanup.h"
#include "tests/integration/preload/run-target.h"

#define RUN(...) target_run_command((const char *const[]) { pagebroker_run, preload_option, __VA_ARGS__, NULL }, 0)

static void assert_refused(int status, int expected, const char *words) {
        cr_assert_eq(status, expected, "ended with %d: %s", status, target_said);
        cr_assert(strstr(target_said, words), "expected '%s', it said: %s", words, target_said);
}

TEST(run, says_that_no_broker_listens) {
        assert_refused(RUN("--socket=/nonexistent/socket", "--", "/bin/true"), 125, "no broker listens at");
}

TEST(run, refuses_a_static_program) {
        require_program("busybox");
        if (!program_why_not("/bin/busybox"))
                cr_skip_test("busybox is dynamically linked here");
        assert_refused(RUN("--socket=/nonexistent", "--", "/bin/busybox", "true"), 126, "is statically linked");
}

/* A program of `size` bytes at PATH, beginning with `head`. */
static void make_program(char path[static 64], const void *head, size_t head_size, uid_t owner, mode_t mode) {
        char zeros[4096] = "";
        int fd;

        (void) snprintf(path, 64, "/tmp/pagebroker-test-program-XXXXXX");
        fd = mkstemp(path);
        cr_assert(fd >= 0);
        cr_assert_eq(write(fd, head, head_size), (ssize_t) head_size);
        cr_assert_eq(write(fd, zeros, sizeof zeros), (ssize_t) sizeof zeros);
        cr_assert(fchown(fd, owner, (gid_t) -1) == 0 && fchmod(fd, mode) == 0);
        (void) close(fd);
}

TEST(run, refuses_a_program_of_another_users_rights) {
        char path[64];

        require_other_uid();
        make_program(path, "", 0, TEST_OTHER_UID, 04755);
        assert_refused(RUN("--socket=/nonexistent", "--", path), 126, "is set-user-ID");
        (void) unlink(path);
}

TEST(run, refuses_a_32_bit_program) {
        const unsigned char head[] = { 0x7f, 'E', 'L', 'F', 1 /* ELFCLASS32 */, 1, 1 };
        char path[64];

        make_program(path, head, sizeof head, (uid_t) -1, 0755);
        assert_refused(RUN("--socket=/nonexistent", "--", path), 126, "is a 32-bit program");
        (void) unlink(path);
}

TEST(run, refuses_a_program_that_is_not_there) {
        assert_refused(RUN("--socket=/nonexistent", "--", "no-such-program"), 127, "not found");
}

TEST(run, refuses_a_role_whose_mappings_are_not_served) {
        assert_refused(RUN("--socket=/nonexistent", "--role=observer", "--", "/bin/true"), 125, "--role=observer");
}

TEST(run, refuses_a_memory_that_the_broker_does_not_have) {
        struct test_image image;
        struct test_broker broker;
        char socket[128];

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .n_pages = 16, .seed = 1 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image));
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker.address);
        assert_refused(RUN(socket, "--", "/bin/true", "{memory1}"), 125, "the broker has 1");
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

/* ---- placeholders, without a process ---- */

static void assert_expands(const char *text, const char *expected) {
        static const struct argument_memory memories[] = { { .fd = 100, .size = 4096 },
                                                           { .fd = 103, .size = 1ull << 40 } };
        _cleanup_free_ char *expanded = NULL;
        unsigned unknown;

        cr_assert_eq(argument_expand(text, memories, 2, &expanded, &unknown), 0);
        cr_assert_str_eq(expanded, expected);
}

TEST(run, placeholders_stand_for_path_descriptor_and_size) {
        assert_expands("mem-path={memory0},share=on", "mem-path=/proc/self/fd/100,share=on");
        assert_expands("{memory1.fd}{memory0.size}", "1034096");
        assert_expands("{memory1.size}", "1099511627776");
}

TEST(run, other_braces_are_left_alone) {
        assert_expands("{'driver':'qcow2'} {memory} {memoryx} {memory0 {memory0.name}",
                       "{'driver':'qcow2'} {memory} {memoryx} {memory0 {memory0.name}");
        assert_expands("", "");
}

TEST(run, an_unknown_memory_is_an_error) {
        static const struct argument_memory memories[] = { { .fd = 100, .size = 4096 } };
        char *expanded = NULL;
        unsigned unknown = 0;

        cr_assert_eq(argument_expand("a{memory1}", memories, 1, &expanded, &unknown), -ENOENT);
        cr_assert_eq(unknown, 1);
        cr_assert_null(expanded);
        cr_assert_eq(argument_expand("{memory99999999999999999999}", memories, 1, &expanded, &unknown), -ENOENT);
}
