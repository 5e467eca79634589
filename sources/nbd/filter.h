/* SPDX-License-Identifier: MIT */
/*
 * What the worker may ask of the kernel: connect, read files (certificates, keys, the resolver's), and talk. It cannot
 * write a file, start a program or look into another process. Nothing includes this file; the collector reads it.
 *
 * Memory and threads of libraries.
 * #syscalls:nbd brk mmap:prot!PROT_EXEC munmap ~mremap mprotect:prot!PROT_EXEC ~madvise getrandom ~futex ~getpid ~gettid
 *
 * The broker: its socket, the shared memory, the eventfd, the log.
 * #syscalls:nbd sendmsg recvmsg write poll ~ppoll fstat close ~clock_nanosleep ~fcntl ~writev
 *
 * Connections (libnbd, GnuTLS).
 * #syscalls:nbd socket:domain=AF_UNIX|AF_INET|AF_INET6|AF_VSOCK|AF_NETLINK
 * #syscalls:nbd connect ~getsockopt ~setsockopt sendto recvfrom ~getsockname ~getpeername ~shutdown
 *
 * Certificates and keys; the resolver.
 * #syscalls:nbd ~openat:flags!O_ACCMODE ~read ~readv ~pread64 ~lseek ~newfstatat ~statx ~access ~faccessat2 ~getdents64 ~ioctl ~bind
 * #syscalls:nbd ~sendmmsg ~recvmmsg ~uname ~getuid ~geteuid ~getgid ~getegid ~sysinfo ~readlink ~pselect6
 *
 * The end, abort(), and what libc does around signals.
 * #syscalls:nbd exit_group ~exit ~rt_sigreturn ~restart_syscall ~rt_sigaction ~rt_sigprocmask ~tgkill:self
 *
 * Without a vDSO.
 * #syscalls:nbd ~clock_gettime ~gettimeofday ~time ~getcpu
 */
