/* SPDX-License-Identifier: MIT */
/*
 * System calls that the C library makes behind the code that we wrote (glibc 2.36). Nothing includes this file; the
 * collector reads it.
 *
 * malloc() and thread stacks. Never executable.
 * #syscalls:broker
 *   brk mmap:prot!PROT_EXEC munmap ~mremap mprotect:prot!PROT_EXEC madvise:advice=MADV_DONTNEED getrandom
 *
 * Threads. clone3() keeps its flags in memory, where a filter cannot see them: glibc falls back to clone(). A thread
 * is fine, a process is not.
 * #syscalls:broker
 *   clone3->ENOSYS clone:flags&CLONE_THREAD set_robust_list ?rseq rt_sigprocmask exit gettid
 *
 * Locks, condition variables (with a time limit, too) and pthread_join().
 * #syscalls:broker
 *   futex:op=FUTEX_WAIT_PRIVATE|FUTEX_WAKE_PRIVATE|FUTEX_WAIT_BITSET_PRIVATE
 *   futex:op=FUTEX_WAIT_BITSET_PRIVATE+FUTEX_CLOCK_REALTIME|FUTEX_WAIT_BITSET+FUTEX_CLOCK_REALTIME
 *
 * The end, and abort().
 * #syscalls:broker
 *   exit_group ~rt_sigreturn ~restart_syscall ~rt_sigaction ~getpid ~tgkill:self
 *
 * Without a vDSO (some virtual machines' clocks) these are real calls.
 * #syscalls:broker
 *   ~clock_gettime ~gettimeofday ~getcpu
 */
