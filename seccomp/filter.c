/* SPDX-License-Identifier: MIT */
#include "seccomp/filter.h"

#include <errno.h>
#include <seccomp.h>
#include <unistd.h>

#include "common/cleanup.h"

static void filter_releasep(scmp_filter_ctx *filter) {
        if (*filter)
                seccomp_release(*filter);
}

static int filter_add_rule(scmp_filter_ctx filter, const struct seccomp_rule *rule) {
        struct scmp_arg_cmp conditions[SECCOMP_CONDITIONS_MAX];

        for (unsigned i = 0; i < rule->n_conditions; i++) {
                const struct seccomp_condition *from = &rule->conditions[i];

                conditions[i] = (struct scmp_arg_cmp) {
                        .arg = from->arg,
                        .op = SCMP_CMP_MASKED_EQ,
                        .datum_a = from->is_self ? UINT32_MAX : from->mask,
                        .datum_b = from->is_self ? (uint32_t) getpid() : from->value,
                };
        }
        return seccomp_rule_add_array(filter, rule->error ? SCMP_ACT_ERRNO((uint32_t) rule->error) : SCMP_ACT_ALLOW,
                                      rule->number, rule->n_conditions, conditions);
}

int seccomp_apply(const struct seccomp_profile *profile) {
        _cleanup_(filter_releasep) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
        int r;

        if (!filter)
                return -ENOMEM;
        /* Calls of another ABI (32 bit, x32) too. */
        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        /* All threads at once: one that stayed outside would be the way out. */
        if (r == 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
        /* A search tree instead of a list: calls with conditions run the filter every time (those without are cached
         * by the kernel), and the install path makes several of them. */
        if (r == 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        /* The kernel's own errno instead of one for all. */
        if (r == 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
        for (size_t i = 0; r == 0 && i < profile->n_rules; i++)
                r = filter_add_rule(filter, &profile->rules[i]);
        if (r == 0)
                r = seccomp_load(filter);
        return r;
}
