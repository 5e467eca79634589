/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

#include "broker/broker.h"
#include "broker/isolate.h"
#include "broker/kernel-check.h"
#include "broker/options.h"
#include "common/log.h"

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
                r = broker.ready || broker.store.n_items > 0 ? BROKER_EXIT_AGAIN : EXIT_FAILURE;
        broker_done(&broker);
        return r;
}

int main(int argc, char *argv[]) {
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
                status = 2;
        }
        options_done(&options);
        return status;
}
