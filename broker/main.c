/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "broker/broker.h"
#include "broker/isolate.h"
#include "broker/kernel-check.h"
#include "broker/options.h"
#include "common/log.h"

#define EXIT_USAGE 2

/* Features of the kernel that only an option needs. */
static int check_options(const struct options *options) {
        if (options->pager.on_error != ON_ERROR_POISON || kernel_has_uffd_poison())
                return 0;
        log_error("--on-error=poison: this kernel has no UFFDIO_POISON (Linux 6.6); wait and stop work");
        return -EOPNOTSUPP;
}

static int run(const struct options *options) {
        struct broker broker;
        int r = broker_open(&broker, options);

        if (r == 0)
                r = isolate_identity(options->user);
        if (r == 0)
                r = broker_make(&broker);
        if (r == 0)
                r = broker_run(&broker);
        if (r < 0)
                r = broker.ready ? BROKER_EXIT_AGAIN : EXIT_FAILURE;
        broker_done(&broker);
        return r;
}

/* Whatever is wrong, also a file that somebody has edited: a VM stands still until it is mended. Supervisors that take 1
 * and 2 for final would let go of its memory; and one that starts us again without a pause would do nothing else. */
static int again(void) {
        static const struct timespec pause = { .tv_nsec = 200 * 1000000l };

        log_error("a VM waits for this broker, and what was kept for it stays: to be started again");
        (void) nanosleep(&pause, NULL);
        return BROKER_EXIT_AGAIN;
}

int main(int argc, char *argv[]) {
        const bool is_waited_for = store_is_left();
        struct options options;
        int r, status;

        /* One heap for all threads. Others, when they shrink, make glibc read /proc/sys/vm/overcommit_memory, and under
         * the filter that open() is death; and one per thread would keep what each once had. */
        (void) mallopt(M_ARENA_MAX, 1);
        /* A helper of a source that has ended leaves nothing behind, and nobody waits for it. */
        (void) signal(SIGCHLD, SIG_IGN);
        r = options_parse(&options, argc, argv);
        switch (r) {
        case OPTIONS_EXIT:
                status = EXIT_SUCCESS;
                break;
        case OPTIONS_CHECK:
                log_open("pagebrokerd", NULL);
                status = kernel_check(true) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
                break;
        case OPTIONS_RUN:
                log_open("pagebrokerd", options.name);
                log_set_level(options.log_level);
                status = kernel_check(false) < 0 || check_options(&options) < 0 ? EXIT_FAILURE : run(&options);
                break;
        default:
                log_open("pagebrokerd", NULL);
                status = EXIT_USAGE;
        }
        options_done(&options);
        return is_waited_for && (status == EXIT_FAILURE || status == EXIT_USAGE) ? again() : status;
}
