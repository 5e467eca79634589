/* SPDX-License-Identifier: MIT */
#include "common/fd.h"
#include "common/macro.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

TEST(fd, kind_is_told_without_touching_it) {
        _cleanup_close_ int event = eventfd(0, EFD_CLOEXEC), memfd = memfd_new("kind", 4096, 4096);
        _cleanup_close_ int file = open("/dev/null", O_RDONLY | O_CLOEXEC), s = socket(AF_UNIX, SOCK_STREAM, 0);

        cr_assert_eq(fd_get_kind(event), FD_KIND_EVENTFD);
        cr_assert_eq(fd_get_kind(memfd), FD_KIND_MEMFD);
        cr_assert_eq(fd_get_kind(file), FD_KIND_OTHER);
        cr_assert_eq(fd_get_kind(s), FD_KIND_SOCKET);
        cr_assert_eq(fd_get_kind(-1), FD_KIND_OTHER);
        cr_assert_str_eq(fd_kind_name(FD_KIND_USERFAULTFD), "userfaultfd");
}

TEST(fd, userfaultfd_is_known) {
        _cleanup_close_ int uffd = -1;

        require_uffd();
        uffd = test_uffd_open();
        cr_assert_eq(fd_get_kind(uffd), FD_KIND_USERFAULTFD);
}

TEST(fd, memfd_has_its_size_and_mode) {
        _cleanup_close_ int fd = memfd_new("size", 3 * 4096, 4096);
        struct stat st;

        cr_assert(fd >= 0 && fstat(fd, &st) == 0);
        cr_assert_eq(st.st_size, 3 * 4096);
        cr_assert_eq(st.st_mode & 0777, 0600);
        cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST(fd, seals_are_checked_and_stay) {
        _cleanup_close_ int fd = memfd_new("seals", 4096, 4096);
        int seals = F_SEAL_SHRINK | F_SEAL_GROW;

        cr_assert_eq(memfd_check(fd, 4096, seals), -EPROTO);
        cr_assert_eq(memfd_seal(fd, seals | F_SEAL_SEAL), 0);
        cr_assert_eq(memfd_check(fd, 4096, seals), 0);
        cr_assert_eq(memfd_check(fd, 4096, seals | F_SEAL_FUTURE_WRITE), -EPROTO);
        cr_assert_eq(memfd_check(fd, 8192, seals), -EPROTO);
        cr_assert_eq(memfd_seal(fd, F_SEAL_WRITE), -EPERM);
        cr_assert(ftruncate(fd, 8192) < 0);
}

TEST(fd, other_kinds_are_no_memfd) {
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC);

        cr_assert_eq(memfd_check(fd, 0, 0), -EPROTO);
}

TEST(fd, reopened_readonly_cannot_be_mapped_writable) {
        _cleanup_close_ int fd = memfd_new("ro", 4096, 4096), readonly = memfd_reopen_readonly(fd);

        cr_assert(readonly >= 0);
        cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0), MAP_FAILED);
        cr_assert_eq(errno, EACCES);
}

TEST(fd, blocking_mode_is_switched) {
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC);

        cr_assert_eq(fd_set_nonblocking(fd, true), 0);
        cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
        cr_assert_eq(fd_set_nonblocking(fd, false), 0);
        cr_assert(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
        cr_assert_eq(fd_set_nonblocking(-1, true), -EBADF);
}

TEST(fd, open_ones_are_counted) {
        int before = fd_count_open();
        _cleanup_close_ UNUSED int fd = eventfd(0, EFD_CLOEXEC);

        cr_assert_eq(fd_count_open(), before + 1);
}
