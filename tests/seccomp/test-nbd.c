/* SPDX-License-Identifier: MIT */
/* What a server that has taken over an NBD source's helper would want to do next; and what the helper needs. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "seccomp/filter.h"
#include "tests/lib/test.h"

#define KILLED (128 + SIGSYS)
#define NO_FILTER 77

static char byte;
static struct iovec local = { &byte, 1 };

static int run(void *fn) {
        if (seccomp_apply(&seccomp_profile_nbd) < 0)
                return NO_FILTER;
        return (*(int (**)(void)) fn)();
}

static int probe(int (*fn)(void)) {
        int status = test_run_as((uid_t) -1, run, &fn);

        cr_assert_neq(status, NO_FILTER, "the filter could not be loaded");
        return status;
}

#define DENIED(behaviour, expression)                                                        \
        static int behaviour##_call(void) {                                                  \
                (void) (expression);                                                         \
                return 0;                                                                    \
        }                                                                                    \
        TEST(nbd_denies, behaviour) {                                                        \
                cr_assert_eq(probe(behaviour##_call), KILLED, "the call was not stopped");   \
        }

#define ALLOWED(behaviour, expression)                                                       \
        static int behaviour##_call(void) {                                                  \
                return (expression) ? 0 : 1;                                                 \
        }                                                                                    \
        TEST(nbd_allows, behaviour) {                                                        \
                cr_assert_eq(probe(behaviour##_call), 0);                                    \
        }

DENIED(exec, syscall(SYS_execve, "/bin/true", NULL, NULL))
DENIED(new_process, syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))
DENIED(new_thread, syscall(SYS_clone3, NULL, 0))
#if !TEST_SANITIZED /* a sanitizer's own calls lift this limit */
DENIED(file_for_writing, syscall(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY))
DENIED(file_for_reading_and_writing, syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR))
#endif
DENIED(removal_of_a_file, syscall(SYS_unlinkat, AT_FDCWD, "/does/not/exist", 0))
DENIED(executable_mapping, mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
DENIED(read_of_another_process, syscall(SYS_process_vm_readv, getppid(), &local, 1, &local, 1, 0))
DENIED(debugger, ptrace(PTRACE_ATTACH, getppid(), NULL, NULL))
DENIED(signal_to_another_process, kill(getppid(), 0))
DENIED(listening, syscall(SYS_listen, 0, 1))
DENIED(raw_packets, socket(AF_PACKET, SOCK_RAW, 0))
DENIED(new_ring, syscall(SYS_io_uring_setup, 1, NULL))
DENIED(another_user, syscall(SYS_setuid, 0))
DENIED(kernel_programs, syscall(SYS_bpf, 0, NULL, 0))

ALLOWED(file_for_reading, syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
ALLOWED(unix_socket, socket(AF_UNIX, SOCK_STREAM, 0) >= 0)
ALLOWED(tcp_socket, socket(AF_INET, SOCK_STREAM, 0) >= 0)
