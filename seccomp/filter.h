/* SPDX-License-Identifier: MIT */
/*
 * System call filters. Which calls a program needs is written next to the code that makes them, in comments that
 * seccomp/collect turns into a profile; README.md has the notation and the reasons.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECCOMP_CONDITIONS_MAX 3

/* (argument & mask) == value, in the low 32 bits: all that the kernel looks at in the arguments that we limit. */
struct seccomp_condition {
        uint8_t arg;
        bool is_self; /* the value is this process's id, known when the filter is loaded */
        uint32_t mask;
        uint32_t value;
};

struct seccomp_rule {
        const char *name;
        int number;
        int error; /* 0: allowed; else the call fails with it and is not made */
        unsigned n_conditions;
        struct seccomp_condition conditions[SECCOMP_CONDITIONS_MAX];
};

struct seccomp_profile {
        const char *name;
        const struct seccomp_rule *rules;
        size_t n_rules;
};

/* Made from the comments of broker/ and common/. */
extern const struct seccomp_profile seccomp_profile_broker;
/* Made from those of sources/. */
extern const struct seccomp_profile seccomp_profile_nbd;

/*
 * From now on every thread of this process, and every one to come, may make the calls of the profile only; any other
 * kills the process with SIGSYS. Sets no_new_privs. Cannot be undone.
 * Returns 0 or a negative errno; then nothing is in force. -EINVAL or -ENOSYS from a kernel without seccomp filters,
 * -ESRCH if a thread has a filter of its own already.
 */
int seccomp_apply(const struct seccomp_profile *profile);
