/* SPDX-License-Identifier: MIT */
/* What somebody who has taken over the broker would want to do next. */
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "seccomp/filter.h"
#include "tests/seccomp/probe.h"

static char byte;
static struct iovec local = { &byte, 1 };

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* those open files for their reports */
PROBE_DENIED(open_of_a_file, syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY))
#endif
PROBE_DENIED(new_socket, socket(AF_INET, SOCK_STREAM, 0))
PROBE_DENIED(new_unix_socket, socket(AF_UNIX, SOCK_STREAM, 0))
PROBE_DENIED(connect_, syscall(SYS_connect, 0, NULL, 0))
PROBE_DENIED(exec, syscall(SYS_execve, "/bin/true", NULL, NULL))
PROBE_DENIED(exec_of_a_descriptor, syscall(SYS_execveat, 0, "", NULL, NULL, AT_EMPTY_PATH))
PROBE_DENIED(new_process, syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))
PROBE_DENIED(new_process_by_fork, syscall(SYS_fork))
PROBE_DENIED(new_namespace, syscall(SYS_unshare, CLONE_NEWUSER))
PROBE_DENIED(executable_mapping, mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
PROBE_DENIED(executable_protection, mprotect(&byte, 1, PROT_READ | PROT_EXEC))
PROBE_DENIED(write_into_another_process, process_vm_writev(getppid(), &local, 1, &local, 1, 0))
PROBE_DENIED(read_of_another_process, syscall(SYS_process_vm_readv, getppid(), &local, 1, &local, 1, 0))
PROBE_DENIED(debugger, ptrace(PTRACE_ATTACH, getppid(), NULL, NULL))
PROBE_DENIED(descriptor_of_another_process, syscall(SYS_pidfd_getfd, 0, 0, 0))
PROBE_DENIED(signal_to_another_process, kill(getppid(), 0))
PROBE_DENIED(signal_to_another_thread_group, syscall(SYS_tgkill, getppid(), getppid(), 0))
PROBE_DENIED(requeue_of_waiters, syscall(SYS_futex, &byte, FUTEX_REQUEUE, 0, 0, &byte, 0))
PROBE_DENIED(punch_by_madvise, madvise(&byte, 1, MADV_REMOVE))
PROBE_DENIED(input_into_a_terminal, ioctl(0, TIOCSTI, &byte))
PROBE_DENIED(new_userfaultfd, syscall(SYS_userfaultfd, 0))
PROBE_DENIED(new_ring, syscall(SYS_io_uring_setup, 1, NULL))
PROBE_DENIED(another_ring_registration, syscall(SYS_io_uring_register, -1, 0, NULL, 0))
PROBE_DENIED(another_user, syscall(SYS_setuid, 0))
PROBE_DENIED(another_users, syscall(SYS_setresuid, 0, 0, 0))
PROBE_DENIED(capabilities, syscall(SYS_capset, NULL, NULL))
PROBE_DENIED(another_filter, syscall(SYS_seccomp, 0, 0, NULL))
PROBE_DENIED(bpf_program, syscall(SYS_bpf, 0, NULL, 0))
PROBE_DENIED(mount_, syscall(SYS_mount, NULL, NULL, NULL, 0, NULL))
PROBE_DENIED(removal_of_a_file, syscall(SYS_unlinkat, AT_FDCWD, "/nonexistent", 0))
PROBE_DENIED(keys, syscall(SYS_keyctl, 0))
PROBE_DENIED(dumpable_again, prctl(PR_SET_DUMPABLE, 1))
PROBE_DENIED(owner_of_a_descriptor, fcntl(0, F_SETOWN, getpid()))
PROBE_DENIED(number_that_does_not_exist, syscall(100000))
#ifdef __x86_64__
/* getpid() of i386: another ABI has other numbers, so its calls mean something else to a filter. */
PROBE_DENIED(call_of_another_abi, ({
                     long r;
                     __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory");
                     r;
             }))
PROBE_DENIED(call_of_x32, syscall(0x40000000 | SYS_getpid))
#endif

static pthread_barrier_t barrier;

static void *make_socket(void *arg) {
        (void) pthread_barrier_wait(&barrier);
        (void) syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
        return NULL;
}

/* The thread is there before the filter; it is filtered, and it takes the process with it. */
static int call_in_old_thread(void *arg) {
        pthread_t *thread = arg;

        (void) pthread_barrier_wait(&barrier);
        (void) pthread_join(*thread, NULL);
        return 0;
}

static int start_thread_then_filter(void *arg) {
        pthread_t thread;

        if (pthread_barrier_init(&barrier, NULL, 2) != 0 || pthread_create(&thread, NULL, make_socket, NULL) != 0 ||
            seccomp_apply(&seccomp_profile_broker) < 0)
                return PROBE_NO_FILTER;
        return call_in_old_thread(&thread);
}

TEST(seccomp_denies, call_in_a_thread_that_was_there_before) {
        cr_assert_eq(test_run_as((uid_t) -1, start_thread_then_filter, NULL), PROBE_KILLED);
}
