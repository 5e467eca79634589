/* SPDX-License-Identifier: MIT */
/* On which NUMA nodes guest memory lies. Shared memory has a policy of its own, kept with the file by ranges: it holds for
 * whoever installs or touches a page, and is set before the first one. hugetlbfs keeps none: there it is our mapping's, by
 * which we install. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define NUMA_NODES_MAX 1024u
#define NUMA_LONG_BITS (8u * sizeof(long))

struct numa_policy {
        int mode; /* MPOL_BIND...; 0 (MPOL_DEFAULT): none was asked for */
        unsigned long nodes[NUMA_NODES_MAX / NUMA_LONG_BITS];
};

/* "bind:0-1", "interleave:0-3", "preferred:0". -EINVAL, and in `ret_error` what is wrong, static. */
int numa_policy_parse(const char *text, struct numa_policy *ret, const char **ret_error);

/* For a fresh mapping of the file. 0 or a negative errno. */
int numa_policy_apply(const struct numa_policy *policy, void *addr, size_t length);
