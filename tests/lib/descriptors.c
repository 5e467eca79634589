/* SPDX-License-Identifier: MIT */
#include "tests/lib/descriptors.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/lib/janitor.h"

#define DESCRIPTORS_MAX 4096

static bool open_before[DESCRIPTORS_MAX];

/* Calls `each` for every descriptor of `pid` but the one that lists them. */
static int for_each_descriptor(pid_t pid, void (*each)(const char *dir, int fd)) {
        char path[32];
        DIR *dir;
        int n = 0;

        (void) snprintf(path, sizeof path, "/proc/%d/fd", (int) pid);
        dir = opendir(path);
        if (!dir)
                return -errno;
        for (struct dirent *entry; (entry = readdir(dir));) {
                int fd;

                if (entry->d_name[0] == '.')
                        continue;
                fd = (int) strtol(entry->d_name, NULL, 10);
                if (pid == getpid() && fd == dirfd(dir))
                        continue;
                n++;
                if (each)
                        each(path, fd);
        }
        (void) closedir(dir);
        return n;
}

int test_descriptors_count(pid_t pid) {
        return for_each_descriptor(pid, NULL);
}

static void show_one(const char *dir, int fd) {
        char path[64], link[PATH_MAX];
        ssize_t n;

        (void) snprintf(path, sizeof path, "%s/%d", dir, fd);
        n = readlink(path, link, sizeof link - 1);
        link[n < 0 ? 0 : n] = 0;
        fprintf(stderr, "  descriptor %d: %s\n", fd, link);
}

void test_descriptors_show(pid_t pid) {
        (void) for_each_descriptor(pid, show_one);
}

static void remember_one(const char *dir, int fd) {
        (void) dir;
        if (fd < DESCRIPTORS_MAX)
                open_before[fd] = true;
}

void test_descriptors_begin(void) {
        /* It keeps one for the process's life. */
        test_janitor_start();
        (void) for_each_descriptor(getpid(), remember_one);
}

static unsigned n_leaked;

static void compare_one(const char *dir, int fd) {
        if (fd < DESCRIPTORS_MAX && open_before[fd])
                return;
        n_leaked++;
        show_one(dir, fd);
}

unsigned test_descriptors_leaked(void) {
        n_leaked = 0;
        (void) for_each_descriptor(getpid(), compare_one);
        return n_leaked;
}

void test_descriptors_end(void) {
        unsigned n = test_descriptors_leaked();

        cr_assert(n == 0, "the test left %u descriptors open, see above", n);
}
