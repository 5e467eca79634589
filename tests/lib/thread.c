/* SPDX-License-Identifier: MIT */
#include "tests/lib/thread.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "common/cleanup.h"

pid_t thread_find(pid_t pid, const char *wanted) {
        char path[64], name[32];
        pid_t found = -1;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) pid);
        dir = opendir(path);
        if (!dir)
                return -1;
        for (struct dirent *entry; found < 0 && (entry = readdir(dir));) {
                _cleanup_fclose_ FILE *f = NULL;

                (void) snprintf(path, sizeof path, "/proc/%d/task/%.16s/comm", (int) pid, entry->d_name);
                f = fopen(path, "re");
                if (f && fscanf(f, "%31s", name) == 1 && strcmp(name, wanted) == 0)
                        found = (pid_t) atoi(entry->d_name);
        }
        (void) closedir(dir);
        return found;
}

int thread_stop(pid_t tid) {
        int status;

        if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
                return -errno;
        if (waitpid(tid, &status, __WALL) != tid)
                return -errno;
        return WIFSTOPPED(status) ? 0 : -ESRCH;
}

void thread_continue(pid_t tid) {
        (void) ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

int thread_wait_killed(pid_t tid) {
        int status;

        if (waitpid(tid, &status, __WALL) != tid)
                return -errno;
        return WIFSIGNALED(status) ? 0 : -ECHILD;
}
