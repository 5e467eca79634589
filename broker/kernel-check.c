/* SPDX-License-Identifier: MIT */
#include "broker/kernel-check.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "broker/broker.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static bool has_version(void) {
        struct utsname name;
        unsigned major = 0, minor = 0;

        return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
               (major > 6 || (major == 6 && minor >= 1));
}

static bool has_waitv(void) {
        return syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno != ENOSYS;
}

static bool has_populate(void) {
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        bool ok = page != MAP_FAILED && madvise(page, 4096, MADV_POPULATE_WRITE) == 0;

        if (page != MAP_FAILED)
                (void) munmap(page, 4096);
        return ok;
}

static bool has_vm_writev(void) {
        char from = 1, to = 0;
        struct iovec local = { &from, 1 }, remote = { &to, 1 };

        return process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 1;
}

/* Opening the device for a userfaultfd that covers kernel accesses; else the system call, which needs a capability. */
static int open_userfaultfd(void) {
        _cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        if (device >= 0)
                return ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        return (int) syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

static bool has_userfaultfd(void) {
        _cleanup_close_ int fd = open_userfaultfd();

        return fd >= 0;
}

static bool has_minor_faults(void) {
        struct uffdio_api api = {
                .api = UFFD_API,
                .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM |
                            UFFD_FEATURE_MINOR_HUGETLBFS,
        };
        _cleanup_close_ int fd = open_userfaultfd();

        return fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0;
}

bool kernel_has_uffd_poison(void) {
        struct uffdio_api api = { .api = UFFD_API };
        _cleanup_close_ int fd = open_userfaultfd();

        /* A broker that cannot make one learns it from its clients'. */
        return fd < 0 || (ioctl(fd, UFFDIO_API, &api) == 0 && api.features & UFFD_FEATURE_POISON);
}

static bool has_uring(void) {
        struct io_uring ring;

        if (io_uring_queue_init(2, &ring, 0) < 0)
                return false;
        io_uring_queue_exit(&ring);
        return true;
}

/* Not used. Looked at so that a kernel on which it begins to work is noticed. */
static bool has_registrable_guest_memfd(void) {
#ifdef KVM_CREATE_GUEST_MEMFD
        _cleanup_close_ int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1, fd = -1, uffd = -1;
        struct kvm_create_guest_memfd create = { .size = 4096, .flags = 3 /* MMAP | INIT_SHARED */ };
        struct uffdio_api api = { .api = UFFD_API };
        struct uffdio_register reg = { .range.len = 4096, .mode = UFFDIO_REGISTER_MODE_MISSING };
        bool ok = false;
        void *page;

        vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
        fd = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
        uffd = open_userfaultfd();
        if (fd < 0 || uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
                return false;
        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED)
                return false;
        reg.range.start = (uintptr_t) page;
        ok = ioctl(uffd, UFFDIO_REGISTER, &reg) == 0;
        (void) munmap(page, 4096);
        return ok;
#else
        return false;
#endif
}

static const struct {
        bool (*has)(void);
        bool needed;
        const char *lacking; /* one sentence */
        const char *there;
} features[] = {
        { has_version, true, "This kernel is older than Linux 6.1, the oldest that Pagebroker supports.", "Linux 6.1 or newer" },
        { has_waitv, true, "futex_waitv() is missing (Linux 5.16): clients could not wait.", "futex_waitv()" },
        { has_populate, true, "MADV_POPULATE_WRITE is missing (Linux 5.14): memory could not be backed safely.",
          "MADV_POPULATE_WRITE" },
        { has_vm_writev, true, "process_vm_writev() is missing or forbidden: pages could not be installed safely.",
          "process_vm_writev()" },
        { has_minor_faults, false,
          "userfaultfd has no minor faults on shared memory (Linux 5.14): linked clients work, a VMM cannot be served.",
          "userfaultfd with minor faults on shared memory and huge pages" },
        { has_userfaultfd, false,
          "No userfaultfd can be made here: a VMM that has no right of its own to make one cannot be served; run the broker "
          "as root (it drops that right), or give its user access to /dev/userfaultfd.",
          "userfaultfd that covers kernel accesses" },
        { kernel_has_uffd_poison, false, "UFFDIO_POISON is missing (Linux 6.6): --on-error=poison is refused.",
          "UFFDIO_POISON" },
        { has_uring, false, "io_uring is missing or forbidden: cold reads are done by worker threads.", "io_uring" },
        { broker_has_pidfds, false,
          "SO_PASSPIDFD is missing (Linux 6.5): a client's pidfd is taken by its process id.", "SO_PASSPIDFD" },
        { has_registrable_guest_memfd, false,
          "userfaultfd cannot be registered on guest_memfd: guest_memfd is refused as guest memory.",
          "userfaultfd on guest_memfd (not used by this version)" },
};

int kernel_check(bool all) {
        int r = 0;

        for (size_t i = 0; i < ELEMENTS(features); i++) {
                if (!features[i].needed && !all)
                        continue;
                if (features[i].has()) {
                        if (all)
                                (void) printf("  yes  %s\n", features[i].there);
                        continue;
                }
                if (features[i].needed)
                        r = -ENOSYS;
                if (all)
                        (void) printf("%s  %s\n", features[i].needed ? "NEEDED" : "   no", features[i].lacking);
                else
                        log_error("%s", features[i].lacking);
        }
        return r;
}
