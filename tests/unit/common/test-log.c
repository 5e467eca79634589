/* SPDX-License-Identifier: MIT */
#include "common/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "tests/lib/test.h"

/* What one call writes to standard error. */
static void capture(char *ret, size_t size, void (*fn)(void)) {
        _cleanup_close_ int file = memfd_new("log", 0, 4096), saved = dup(STDERR_FILENO);
        ssize_t n;

        cr_assert(file >= 0 && saved >= 0 && dup2(file, STDERR_FILENO) >= 0);
        fn();
        cr_assert(dup2(saved, STDERR_FILENO) >= 0);
        n = pread(file, ret, size - 1, 0);
        ret[n < 0 ? 0 : n] = 0;
}

static void log_line_breaks(void) {
        log_open("program", "web1");
        log_error("a\nb\tc\x1b[31m%d", 7);
}

TEST(log, one_call_is_one_line_whatever_it_holds) {
        char text[256];

        capture(text, sizeof text, log_line_breaks);
        cr_assert_str_eq(text, "program[web1]: a?b?c?[31m7\n");
}

static void log_long(void) {
        char name[3000];

        memset(name, 'x', sizeof name - 1);
        name[sizeof name - 1] = 0;
        log_open("program", NULL);
        log_error("%s", name);
        log_debug("not shown");
}

TEST(log, long_lines_are_cut_and_debug_is_off) {
        char text[4096];

        capture(text, sizeof text, log_long);
        cr_assert(strlen(text) > 700 && strlen(text) < 1100);
        cr_assert_eq(text[strlen(text) - 1], '\n');
        cr_assert(!strstr(text, "not shown"));
}

TEST(log, limit_lets_a_burst_through_and_counts_the_rest) {
        struct log_limit limit = { .interval_us = 3600 * 1000000ull, .burst = 3 };
        uint32_t suppressed;

        for (unsigned i = 0; i < 3; i++)
                cr_assert(log_limit_pass(&limit, &suppressed));
        for (unsigned i = 0; i < 5; i++)
                cr_assert(!log_limit_pass(&limit, &suppressed));
        limit.start_us -= limit.interval_us; /* an hour later */
        cr_assert(log_limit_pass(&limit, &suppressed));
        cr_assert_eq(suppressed, 5);
        cr_assert(log_limit_pass(&limit, &suppressed));
        cr_assert_eq(suppressed, 0);
}
