/* SPDX-License-Identifier: MIT */
#include "common/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"

/* #syscalls:broker readlink fcntl:cmd=F_GETFL|F_SETFL|F_ADD_SEALS memfd_create ftruncate fchmod:arg1=0600 */

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static const char *const kind_names[] = {
        [FD_KIND_OTHER] = "something else",
        [FD_KIND_MEMFD] = "memfd",
        [FD_KIND_EVENTFD] = "eventfd",
        [FD_KIND_USERFAULTFD] = "userfaultfd",
        [FD_KIND_USERFAULTFD_DEVICE] = "/dev/userfaultfd",
        [FD_KIND_SOCKET] = "socket",
};
static_assert(ELEMENTS(kind_names) == FD_KIND_SOCKET + 1, "a name for each kind");

const char *fd_kind_name(enum fd_kind kind) {
        return kind_names[kind];
}

enum fd_kind fd_get_kind(int fd) {
        static const struct {
                const char *prefix;
                enum fd_kind kind;
        } links[] = {
                { "/memfd:", FD_KIND_MEMFD },
                { "anon_inode:[eventfd]", FD_KIND_EVENTFD },
                { "anon_inode:[userfaultfd]", FD_KIND_USERFAULTFD },
                { "/dev/userfaultfd", FD_KIND_USERFAULTFD_DEVICE },
                { "socket:[", FD_KIND_SOCKET },
        };
        char path[64], link[PATH_MAX];
        ssize_t n;

        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n = readlink(path, link, sizeof link - 1);
        if (n < 0)
                return FD_KIND_OTHER;
        link[n] = 0;
        for (size_t i = 0; i < ELEMENTS(links); i++)
                if (strncmp(link, links[i].prefix, strlen(links[i].prefix)) == 0)
                        return links[i].kind;
        return FD_KIND_OTHER;
}

int fd_set_nonblocking(int fd, bool on) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return -errno;
        flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int memfd_new(const char *name, uint64_t size, uint64_t backing_size) {
        unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
        _cleanup_close_ int fd = -1;

        if (backing_size != 4096)
                flags |= MFD_HUGETLB | (unsigned) __builtin_ctzll(backing_size) << MFD_HUGE_SHIFT;
        fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
        if (fd < 0 && errno == EINVAL)
                fd = memfd_create(name, flags);
        if (fd < 0)
                return -errno;
        /* Who has a read-only descriptor must not be able to re-open it for writing (KERNEL: /proc/self/fd/N checks
         * the inode's mode). */
        if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t) size) < 0)
                return -errno;
        return fd_take(&fd);
}

int memfd_seal(int fd, int seals) {
        return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int memfd_check(int fd, uint64_t size, int seals) {
        struct stat st;
        int have;

        if (fd_get_kind(fd) != FD_KIND_MEMFD)
                return -EPROTO;
        have = fcntl(fd, F_GET_SEALS);
        if (have < 0 || (have & seals) != seals)
                return -EPROTO;
        if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t) st.st_size != size)
                return -EPROTO;
        return 0;
}

int memfd_reopen_readonly(int fd) {
        char path[64];
        int ret;

        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ret = open(path, O_RDONLY | O_CLOEXEC);
        return ret < 0 ? -errno : ret;
}

int fd_count_open(void) {
        DIR *dir = opendir("/proc/self/fd");
        int n = 0;

        if (!dir)
                return -errno;
        while (readdir(dir))
                n++;
        (void) closedir(dir);
        return n - 3; /* ".", ".." and the directory itself */
}
