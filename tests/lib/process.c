/* SPDX-License-Identifier: MIT */
#include "tests/lib/process.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "tests/lib/janitor.h"

pid_t test_child_start(uid_t uid, int (*fn)(void *arg), void *arg) {
        pid_t parent = getpid(), pid;

        test_janitor_start();
        pid = fork();
        cr_assert(pid >= 0, "fork: %s", strerror(errno));
        if (pid == 0) {
                if (uid != (uid_t) -1 &&
                    (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
                        _exit(126);
                /* After the change of uid, which clears it. */
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                        _exit(126);
                /* As another user it could not read its own /proc otherwise. */
                (void) prctl(PR_SET_DUMPABLE, 1);
                _exit(fn(arg));
        }
        return pid;
}

int test_child_wait(pid_t pid) {
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        int status;

        cr_assert(pidfd >= 0, "pidfd_open: %s", strerror(errno));
        if (poll(&(struct pollfd) { .fd = pidfd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) != 1) {
                (void) kill(pid, SIGKILL);
                cr_assert_fail("child %d does not end", (int) pid);
        }
        cr_assert(waitpid(pid, &status, 0) == pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int test_run_as(uid_t uid, int (*fn)(void *arg), void *arg) {
        return test_child_wait(test_child_start(uid, fn, arg));
}

int64_t test_process_kib(pid_t pid, const char *field) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[64], line[256];

        (void) snprintf(path, sizeof path, "/proc/%d/status", (int) pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof line, f))
                if (strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':')
                        return strtoll(line + strlen(field) + 1, NULL, 10);
        return -1;
}

static bool read_task_file(pid_t pid, pid_t tid, const char *name, char *buf, size_t size) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[64];

        (void) snprintf(path, sizeof path, "/proc/%d/task/%d/%s", (int) pid, (int) tid, name);
        f = fopen(path, "re");
        return f && fgets(buf, (int) size, f);
}

char test_thread_state(pid_t pid, pid_t tid) {
        char line[512], *end;

        if (!read_task_file(pid, tid, "stat", line, sizeof line))
                return 0;
        /* "pid (any name) S ..." */
        end = strrchr(line, ')');
        return end && end[1] ? end[2] : 0;
}

long test_thread_syscall(pid_t pid, pid_t tid) {
        char line[512];

        if (!read_task_file(pid, tid, "syscall", line, sizeof line) || line[0] < '0' || line[0] > '9')
                return -1;
        return strtol(line, NULL, 10);
}
