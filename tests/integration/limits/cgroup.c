/* SPDX-License-Identifier: MIT */
#include "tests/integration/limits/cgroup.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/process.h"

/* Where a hierarchy that counts memory is mounted: cgroup2 if it has that controller, else version 1. */
static bool find_mount(char ret[128], bool *ret_v2) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mounts", "re");
        char line[1024], where[128], type[32], options[256];
        bool found = false;

        while (f && fgets(line, sizeof line, f)) {
                char path[160];

                if (sscanf(line, "%*s %127s %31s %255s", where, type, options) != 3)
                        continue;
                if (strcmp(type, "cgroup2") == 0) {
                        _cleanup_fclose_ FILE *controllers = NULL;
                        char names[256] = "";

                        (void) snprintf(path, sizeof path, "%s/cgroup.subtree_control", where);
                        controllers = fopen(path, "re");
                        if (controllers && fgets(names, sizeof names, controllers) && strstr(names, "memory")) {
                                *ret_v2 = true;
                                memcpy(ret, where, sizeof where);
                                return true;
                        }
                } else if (strcmp(type, "cgroup") == 0 && strstr(options, "memory")) {
                        *ret_v2 = false;
                        memcpy(ret, where, sizeof where);
                        found = true;
                }
        }
        return found;
}

void test_cgroup_make(struct test_cgroup *ret) {
        char where[128];
        bool v2;

        if (!find_mount(where, &v2))
                cr_skip_test("no cgroup hierarchy that counts memory is mounted here");
        *ret = (struct test_cgroup) {
                .current = v2 ? "memory.current" : "memory.usage_in_bytes",
                .max = v2 ? "memory.max" : "memory.limit_in_bytes",
        };
        (void) snprintf(ret->path, sizeof ret->path, "%s/pagebroker-test-%d", where, (int) getpid());
        if (mkdir(ret->path, 0755) < 0)
                cr_skip_test("%s: %s", ret->path, strerror(errno));
}

static void cgroup_write(const struct test_cgroup *cgroup, const char *file, uint64_t value) {
        char path[256];
        FILE *f;

        (void) snprintf(path, sizeof path, "%s/%s", cgroup->path, file);
        f = fopen(path, "we");
        cr_assert(f, "%s: %s", path, strerror(errno));
        cr_assert(fprintf(f, "%" PRIu64, value) > 0 && fclose(f) == 0, "%s: %s", path, strerror(errno));
}

static bool has_file(const struct test_cgroup *cgroup, const char *file) {
        char path[256];

        (void) snprintf(path, sizeof path, "%s/%s", cgroup->path, file);
        return access(path, W_OK) == 0;
}

void test_cgroup_enter(const struct test_cgroup *cgroup, pid_t pid) {
        cgroup_write(cgroup, "cgroup.procs", (uint64_t) pid);
}

uint64_t test_cgroup_current(const struct test_cgroup *cgroup) {
        _cleanup_fclose_ FILE *f = NULL;
        uint64_t value = 0;
        char path[256];

        (void) snprintf(path, sizeof path, "%s/%s", cgroup->path, cgroup->current);
        f = fopen(path, "re");
        cr_assert(f && fscanf(f, "%" SCNu64, &value) == 1, "%s", path);
        return value;
}

void test_cgroup_set_max(const struct test_cgroup *cgroup, uint64_t bytes) {
        if (has_file(cgroup, "memory.swap.max"))
                cgroup_write(cgroup, "memory.swap.max", 0);
        if (has_file(cgroup, "memory.swappiness"))
                cgroup_write(cgroup, "memory.swappiness", 0);
        cgroup_write(cgroup, cgroup->max, bytes);
}

void test_cgroup_remove(const struct test_cgroup *cgroup) {
        cr_assert(EVENTUALLY(rmdir(cgroup->path) == 0 || errno == ENOENT), "%s: %s", cgroup->path, strerror(errno));
}
