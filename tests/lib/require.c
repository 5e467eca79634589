/* SPDX-License-Identifier: MIT */
#include "tests/lib/require.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/janitor.h"
#include "tests/lib/process.h"
#include "tests/lib/uffd.h"

void require_root(void) {
        if (geteuid() != 0)
                cr_skip_test("needs root");
}

void require_other_uid(void) {
        if (geteuid() != 0)
                cr_skip_test("needs root, to run a client under another uid");
}

void require_kvm(void) {
        int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

        if (fd < 0)
                cr_skip_test("/dev/kvm: %s", strerror(errno));
        version = ioctl(fd, KVM_GET_API_VERSION, 0);
        (void) close(fd);
        if (version != KVM_API_VERSION)
                cr_skip_test("/dev/kvm does not speak KVM's API");
}

void require_uffd(void) {
        int fd = test_uffd_open();

        if (fd < 0)
                cr_skip_test("no userfaultfd that covers kernel accesses: %s", strerror(-fd));
        (void) close(fd);
}

void require_hugepages(uint64_t n, uint64_t size) {
        int64_t have;

        require_root();
        have = test_janitor_reserve_hugepages(size, n);
        if (have < 0)
                cr_skip_test("huge pages of %llu MiB: %s", (unsigned long long) (size >> 20), strerror((int) -have));
        if ((uint64_t) have < n)
                cr_skip_test("only %lld of %llu huge pages of %llu MiB could be reserved", (long long) have,
                             (unsigned long long) n, (unsigned long long) (size >> 20));
}

static int new_mount_namespace(void *arg) {
        return unshare(CLONE_NEWNS) < 0 ? errno : 0;
}

void require_fuse(void) {
        int fd, error;

        require_root();
        fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (fd < 0)
                cr_skip_test("/dev/fuse: %s", strerror(errno));
        (void) close(fd);
        error = test_run_as((uid_t) -1, new_mount_namespace, NULL);
        if (error != 0)
                cr_skip_test("no right to mount: %s", strerror(error));
        if (access(TEST_BUILD_ROOT "/tests/lib/gatefs", X_OK) < 0)
                cr_skip_test("gatefs was not built (libfuse3-dev)");
}

void require_kernel(unsigned major, unsigned minor) {
        unsigned have_major = 0, have_minor = 0;
        struct utsname name;

        (void) uname(&name);
        (void) sscanf(name.release, "%u.%u", &have_major, &have_minor);
        if (have_major < major || (have_major == major && have_minor < minor))
                cr_skip_test("needs Linux %u.%u, this is %s", major, minor, name.release);
}

/* Apart from the requirement: a skip does not come back, so nothing may be held then. */
static bool program_exists(const char *name) {
        _cleanup_free_ char *path = strdup(getenv("PATH") ?: "/usr/bin:/bin");
        char file[4096];

        for (char *rest = path, *dir; (dir = strsep(&rest, ":"));) {
                (void) snprintf(file, sizeof file, "%s/%s", dir, name);
                if (access(file, X_OK) == 0)
                        return true;
        }
        return false;
}

void require_program(const char *name) {
        if (!program_exists(name))
                cr_skip_test("%s is not installed", name);
}

void require_io_uring(void) {
        struct io_uring_params params = { 0 };
        int fd = (int) syscall(SYS_io_uring_setup, 1, &params);

        if (fd < 0)
                cr_skip_test("io_uring: %s", strerror(errno));
        (void) close(fd);
}
