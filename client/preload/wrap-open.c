/* SPDX-License-Identifier: MIT */
/*
 * Opening /proc/self/fd/N anew, as QEMU's mem-path and many wrappers do. That is a real open(), which checks the
 * inode's mode: 0600 and the broker's uid, so that nobody turns a read-only descriptor into a writable one. The program
 * holds the descriptor already, so a duplicate gives it nothing new.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/preload/next.h"
#include "client/preload/preload.h"
#include "client/preload/wrap.h"

/* N of a path that names a descriptor of this process, or -1. */
static int path_fd(const char *path) {
        static const char *const prefixes[] = { "/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/" };
        long n;
        char *end;

        for (size_t i = 0; i < ELEMENTS(prefixes); i++) {
                size_t length = strlen(prefixes[i]);

                if (strncmp(path, prefixes[i], length) != 0 || path[length] < '0' || path[length] > '9')
                        continue;
                n = strtol(path + length, &end, 10);
                return *end == 0 && n <= INT32_MAX ? (int) n : -1;
        }
        return -1;
}

static int open_wrapped(int directory, const char *path, int flags, mode_t mode) {
        int saved = errno, fd = path ? path_fd(path) : -1;

        if (fd >= 0 && !(flags & (O_PATH | O_DIRECTORY)) && preload_is_active()) {
                if (preload_find_memory(fd) >= 0)
                        return fcntl(fd, flags & O_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
                if (preload_is_number_of_memory(fd) && preload_check() < 0) {
                        errno = EACCES;
                        return -1;
                }
        }
        errno = saved;
        return next_openat(directory, path, flags, mode);
}

/* The mode is there only if the flags say that a file may be made. */
#define READ_MODE(flags, mode)                                               \
        do {                                                                 \
                if ((flags) &O_CREAT || ((flags) &O_TMPFILE) == O_TMPFILE) { \
                        va_list ap;                                          \
                                                                             \
                        va_start(ap, flags);                                 \
                        mode = va_arg(ap, mode_t);                           \
                        va_end(ap);                                          \
                }                                                            \
        } while (0)

EXPORT int open(const char *path, int flags, ...) {
        mode_t mode = 0;

        READ_MODE(flags, mode);
        return open_wrapped(AT_FDCWD, path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...) {
        mode_t mode = 0;

        READ_MODE(flags, mode);
        return open_wrapped(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

EXPORT int openat(int directory, const char *path, int flags, ...) {
        mode_t mode = 0;

        READ_MODE(flags, mode);
        return open_wrapped(directory, path, flags, mode);
}

EXPORT int openat64(int directory, const char *path, int flags, ...) {
        mode_t mode = 0;

        READ_MODE(flags, mode);
        return open_wrapped(directory, path, flags | O_LARGEFILE, mode);
}

/* What -D_FORTIFY_SOURCE makes of calls without a mode. libc aborts here if the flags need one; we let the kernel
 * see mode 0, which is no worse. */
EXPORT int __open_2(const char *path, int flags) {
        return open_wrapped(AT_FDCWD, path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags) {
        return open_wrapped(AT_FDCWD, path, flags | O_LARGEFILE, 0);
}

EXPORT int __openat_2(int directory, const char *path, int flags) {
        return open_wrapped(directory, path, flags, 0);
}

EXPORT int __openat64_2(int directory, const char *path, int flags) {
        return open_wrapped(directory, path, flags | O_LARGEFILE, 0);
}
