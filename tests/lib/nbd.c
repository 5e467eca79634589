/* SPDX-License-Identifier: MIT */
#include "tests/lib/nbd.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/lib/janitor.h"
#include "tests/lib/process.h"

#define ARGS_MAX 64

/* ---- programs ---- */

pid_t test_start_program(const char *const argv[]) {
        pid_t pid, parent = getpid();

        test_janitor_start();
        pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(126);
                (void) dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
                (void) dup2(STDERR_FILENO, STDOUT_FILENO);
                (void) syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0);
                (void) execvp(argv[0], (char *const *) argv);
                fprintf(stderr, "%s: %m\n", argv[0]);
                _exit(127);
        }
        test_janitor_watch(pid);
        return pid;
}

void test_kill_program(pid_t pid) {
        cr_assert(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

void test_run_program(const char *const argv[]) {
        int status = test_child_wait(test_start_program(argv));

        cr_assert_eq(status, 0, "%s ended with status %d", argv[0], status);
}

/* ---- servers ---- */

const char *test_nbd_path(const struct test_nbd *nbd, const char *name) {
        static char paths[8][256];
        static unsigned next;
        char *path = paths[next++ % 8];

        (void) snprintf(path, sizeof paths[0], "%s/%s", nbd->dir, name);
        return path;
}

void test_nbd_prepare(struct test_nbd *ret) {
        *ret = (struct test_nbd) {};
        (void) snprintf(ret->dir, sizeof ret->dir, "%s/nbd-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(ret->dir) != NULL && chmod(ret->dir, 0755) == 0);
        (void) snprintf(ret->socket, sizeof ret->socket, "%s/socket", ret->dir);
        (void) snprintf(ret->uri, sizeof ret->uri, "nbd+unix:///?socket=%s", ret->socket);
}

/* Both write the file when they listen. */
static bool has_started(const struct test_nbd *nbd, const char *pidfile) {
        struct stat st;

        cr_assert(waitpid(nbd->pid, NULL, WNOHANG) == 0, "the NBD server has ended");
        return stat(pidfile, &st) == 0 && st.st_size > 0;
}

static void run(struct test_nbd *nbd, const char *const head[], const char *pidfile, const char *const args[]) {
        const char *argv[ARGS_MAX];
        unsigned n = 0;

        cr_assert(nbd->pid == 0);
        for (; *head; head++)
                argv[n++] = *head;
        for (; *args; args++) {
                cr_assert(n < ARGS_MAX - 1);
                argv[n++] = *args;
        }
        argv[n] = NULL;
        (void) unlink(pidfile);
        nbd->pid = test_start_program(argv);
        cr_assert(EVENTUALLY(has_started(nbd, pidfile)));
        /* A broker that has become somebody else connects, too. */
        (void) chmod(nbd->socket, 0777);
}

void test_nbd_run_nbdkit(struct test_nbd *nbd, const char *const args[]) {
        const char *pidfile = test_nbd_path(nbd, "pid");

        run(nbd, (const char *const[]) { "nbdkit", "-f", "-U", nbd->socket, "-P", pidfile, NULL }, pidfile, args);
}

void test_nbd_run_qemu(struct test_nbd *nbd, const char *const args[]) {
        const char *pidfile = test_nbd_path(nbd, "pid");

        run(nbd, (const char *const[]) { "qemu-nbd", "-t", "-k", nbd->socket, "--pid-file", pidfile, NULL }, pidfile, args);
}

void test_nbd_kill(struct test_nbd *nbd) {
        test_kill_program(nbd->pid);
        nbd->pid = 0;
        (void) unlink(nbd->socket);
}

void test_nbd_stop(struct test_nbd *nbd) {
        if (nbd->pid > 0)
                test_nbd_kill(nbd);
        TEST_RUN("rm", "-rf", nbd->dir);
}

const char *test_nbd_memory(const char *name, const struct test_nbd *nbd, const char *fragment) {
        static char texts[8][400];
        static unsigned next;
        char *text = texts[next++ % 8];

        (void) snprintf(text, sizeof texts[0], "--memory=%s,source=nbd:%s%s", name, nbd->uri, fragment);
        return text;
}
