/* SPDX-License-Identifier: MIT */
/* Why guest_memfd is refused: on a kernel where this fails, it may be time to look again. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/kernel/kernel.h"
#include "tests/lib/uffd.h"

/* Of newer headers: 6.8; the flags: 6.18. */
#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
        uint64_t size;
        uint64_t flags;
        uint64_t reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#define FLAG_MMAP (1u << 0)
#define FLAG_INIT_SHARED (1u << 1)

static int guest_memfd_new(uint64_t size) {
        struct kvm_create_guest_memfd arg = { .size = size, .flags = FLAG_MMAP | FLAG_INIT_SHARED };
        int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);
        int fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &arg), error = errno;

        (void) close(vm);
        (void) close(kvm);
        return fd < 0 ? -error : fd;
}

TEST(guest_memfd, cannot_be_registered_with_userfaultfd) {
        int fd, uffd, r;
        void *addr;

        require_kvm();
        require_uffd();
        fd = guest_memfd_new(PAGE);
        if (fd < 0)
                cr_skip_test("no guest_memfd that can be mapped: %s", strerror(-fd));
        addr = memory_map(fd, PAGE, PROT_READ | PROT_WRITE);
        uffd = test_uffd_new();
        r = test_uffd_register(uffd, addr, PAGE);
        cr_assert_eq(r, -EINVAL, "%s", r == 0 ? "it works here" : strerror(-r));
        (void) munmap(addr, PAGE);
        (void) close(uffd);
        (void) close(fd);
}
