/* SPDX-License-Identifier: MIT */
/*
 * What AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer need beside the program: only in builds with
 * -Db_sanitize, where it is added to every profile. Nothing includes this file; the collector reads it.
 *
 * Their own memory; a report reads /proc/self/maps and the binaries to name its lines, and asks whether it writes to a
 * terminal. LeakSanitizer needs more (a tracer process): it stays off under a filter.
 * #syscalls:sanitize
 *   madvise:advice=MADV_DONTNEED|MADV_DONTDUMP|MADV_NOHUGEPAGE|MADV_HUGEPAGE|MADV_FREE
 *   futex:op=FUTEX_WAIT|FUTEX_WAKE ioctl:request=TCGETS fcntl:cmd=F_GETFD|F_GETFL prctl:option=PR_GET_NAME|PR_SET_VMA
 *   ?open openat ?readlink readlinkat ?stat ?lstat newfstatat pread64 lseek close read write ?access faccessat dup ?pipe pipe2
 *   sigaltstack sched_yield sched_getaffinity getrlimit prlimit64 uname nanosleep clock_nanosleep
 *   getuid geteuid getgid getegid getppid
 */
