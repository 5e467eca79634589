/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum fd_kind {
        FD_KIND_OTHER,
        FD_KIND_MEMFD,
        FD_KIND_EVENTFD,
        FD_KIND_USERFAULTFD,
        FD_KIND_USERFAULTFD_DEVICE,
        FD_KIND_SOCKET,
};

/* What the /proc/self/fd link says, without a call on the descriptor itself: such a call could block or act on
 * something that a hostile sender chose. */
enum fd_kind fd_get_kind(int fd);
const char *fd_kind_name(enum fd_kind kind);

int fd_set_nonblocking(int fd, bool on);

/*
 * A memfd of `size` bytes, mode 0600, close-on-exec, never executable where the kernel can say so (6.3). `backing_size`
 * is 4096 or a huge page size in bytes. Not sealed yet: see memfd_seal(). Errors name no file: -ENOSYS, -EMFILE,
 * -EINVAL, -ENOENT (no such huge page size), -ENOMEM.
 */
int memfd_new(const char *name, uint64_t size, uint64_t backing_size);

/* Adds `seals`. A seal that cannot be had is an error, never a warning. */
int memfd_seal(int fd, int seals);

/* Checks a received descriptor: a memfd of `size` bytes with at least `seals`. -EPROTO if not. */
int memfd_check(int fd, uint64_t size, int seals);

/* Re-opens read-only through /proc/self/fd. Needs rights on the inode. */
int memfd_reopen_readonly(int fd);

/* How many descriptors this process has open. */
int fd_count_open(void);
