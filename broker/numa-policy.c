/* SPDX-License-Identifier: MIT */
#include "broker/numa-policy.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/macro.h"

static const struct {
        const char *prefix;
        int mode;
} modes[] = {
        { "bind:", MPOL_BIND },
        { "interleave:", MPOL_INTERLEAVE },
        { "preferred:", MPOL_PREFERRED },
};

/* The library prints through this, in its own words; ours name the option. */
void numa_warn(int number, char *format, ...) {
}

static int parse_nodes(const char *text, struct numa_policy *policy, const char **ret_error) {
        struct bitmask *nodes;

        *ret_error = "this kernel has no NUMA policies";
        if (numa_available() < 0)
                return -EINVAL;
        *ret_error = "nodes are a list like 0,,2-3 of nodes that exist; see numactl --hardware";
        nodes = *text ? numa_parse_nodestring(text) : NULL;
        if (!nodes)
                return -EINVAL;
        for (unsigned node = 0; node < NUMA_NODES_MAX; node++)
                if (node < nodes->size && numa_bitmask_isbitset(nodes, node))
                        policy->nodes[node / NUMA_LONG_BITS] |= 1ul << node % NUMA_LONG_BITS;
        if (policy->mode == MPOL_PREFERRED && numa_bitmask_weight(nodes) != 1)
                *ret_error = "preferred takes one node";
        else if (numa_bitmask_weight(nodes) > 0)
                *ret_error = NULL;
        numa_bitmask_free(nodes);
        return *ret_error ? -EINVAL : 0;
}

int numa_policy_parse(const char *text, struct numa_policy *ret, const char **ret_error) {
        struct numa_policy policy = {};
        int r;

        for (size_t i = 0; i < ELEMENTS(modes); i++) {
                size_t n = strlen(modes[i].prefix);

                if (strncmp(text, modes[i].prefix, n) != 0)
                        continue;
                policy.mode = modes[i].mode;
                r = parse_nodes(text + n, &policy, ret_error);
                if (r == 0)
                        *ret = policy;
                return r;
        }
        *ret_error = "policies are bind:NODES, interleave:NODES, preferred:NODE";
        return -EINVAL;
}

int numa_policy_apply(const struct numa_policy *policy, void *addr, size_t length) {
        if (policy->mode == MPOL_DEFAULT)
                return 0;
        /* The kernel takes one bit fewer than it is told of. */
        return mbind(addr, length, policy->mode, policy->nodes, NUMA_NODES_MAX + 1, 0) < 0 ? -errno : 0;
}
