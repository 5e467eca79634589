/* SPDX-License-Identifier: MIT */
#include "tests/lib/uffd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

int test_uffd_open(void) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd, error;

        if (device >= 0) {
                fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
                error = errno;
                (void) close(device);
                return fd < 0 ? -error : fd;
        }
        fd = (int) syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? -errno : fd;
}

int test_uffd_enable(int fd, uint64_t features) {
        struct uffdio_api api = { .api = UFFD_API, .features = features };

        return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int test_uffd_new(void) {
        int fd = test_uffd_open(), r;

        cr_assert(fd >= 0, "userfaultfd: %s", strerror(-fd));
        r = test_uffd_enable(fd, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS |
                                         UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS);
        cr_assert(r == 0, "UFFDIO_API: %s", strerror(-r));
        return fd;
}

int test_uffd_register(int fd, void *addr, size_t length) {
        struct uffdio_register arg = {
                .range = { .start = (uintptr_t) addr, .len = length },
                .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
        };

        return ioctl(fd, UFFDIO_REGISTER, &arg) < 0 ? -errno : 0;
}

int test_uffd_unregister(int fd, void *addr, size_t length) {
        struct uffdio_range range = { .start = (uintptr_t) addr, .len = length };

        return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int64_t test_uffd_continue(int fd, void *addr, size_t length) {
        struct uffdio_continue arg = { .range = { .start = (uintptr_t) addr, .len = length } };

        return ioctl(fd, UFFDIO_CONTINUE, &arg) < 0 ? -errno : arg.mapped;
}

int test_uffd_wake(int fd, void *addr, size_t length) {
        struct uffdio_range range = { .start = (uintptr_t) addr, .len = length };

        return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

uint64_t test_uffd_wait_fault(int fd, int timeout_ms, uint64_t *ret_flags) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        struct uffd_msg message;
        ssize_t n;

        cr_assert(poll(&p, 1, timeout_ms) == 1 && (p.revents & POLLIN), "no fault within %d ms", timeout_ms);
        n = read(fd, &message, sizeof message);
        cr_assert(n == sizeof message, "reading a fault: %s", strerror(errno));
        cr_assert_eq(message.event, UFFD_EVENT_PAGEFAULT);
        if (ret_flags)
                *ret_flags = message.arg.pagefault.flags;
        return message.arg.pagefault.address;
}

bool test_uffd_is_quiet(int fd) {
        return poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 0) == 0;
}
