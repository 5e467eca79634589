/* SPDX-License-Identifier: MIT */
/* NBD servers of other people, started for a test on a Unix socket (or a TCP port of this machine). */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/image.h"

struct test_nbd {
        char dir[64];
        char socket[96]; /* where it listens */
        char uri[160];   /* nbd+unix:///?socket=... */
        pid_t pid;
};

/* A directory and a socket's name, no server yet. */
void test_nbd_prepare(struct test_nbd *ret);

/* Runs the server: `args` are its own, after "nbdkit -f -U SOCKET -P PIDFILE" or "qemu-nbd -t -k SOCKET --pid-file PIDFILE". Returns
 * when it takes connections. It may have been stopped before. */
void test_nbd_run_nbdkit(struct test_nbd *nbd, const char *const args[]);
void test_nbd_run_qemu(struct test_nbd *nbd, const char *const args[]);
#define TEST_NBDKIT(nbd, ...) test_nbd_run_nbdkit((nbd), (const char *const[]) { __VA_ARGS__, NULL })
#define TEST_QEMU_NBD(nbd, ...) test_nbd_run_qemu((nbd), (const char *const[]) { __VA_ARGS__, NULL })

/* SIGKILL, and waits for its end. The socket's name is removed. */
void test_nbd_kill(struct test_nbd *nbd);
/* The same if it runs, and removes the directory with everything in it. */
void test_nbd_stop(struct test_nbd *nbd);

/* "--memory=NAME,source=nbd:URI#FRAGMENT". As test_memory(). */
const char *test_nbd_memory(const char *name, const struct test_nbd *nbd, const char *fragment);

/* A path in the server's directory. Static memory, a few at a time. */
const char *test_nbd_path(const struct test_nbd *nbd, const char *name);

/* Runs a program to its end; fails the test unless it ends with 0. */
void test_run_program(const char *const argv[]);
#define TEST_RUN(...) test_run_program((const char *const[]) { __VA_ARGS__, NULL })
/* The same in the background. */
pid_t test_start_program(const char *const argv[]);
void test_kill_program(pid_t pid);
