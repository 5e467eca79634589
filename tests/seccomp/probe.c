/* SPDX-License-Identifier: MIT */
#include "tests/seccomp/probe.h"

#include "seccomp/filter.h"

struct probe {
        int (*fn)(void *arg);
        void *arg;
};

static int probe_run(void *arg) {
        struct probe *p = arg;

        if (seccomp_apply(&seccomp_profile_broker) < 0)
                return PROBE_NO_FILTER;
        return p->fn(p->arg);
}

int probe(int (*fn)(void *arg), void *arg) {
        int status = test_run_as((uid_t) -1, probe_run, &(struct probe) { fn, arg });

        cr_assert_neq(status, PROBE_NO_FILTER, "the filter could not be loaded");
        return status;
}
