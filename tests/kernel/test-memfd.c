/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "tests/kernel/kernel.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

TEST(memfd, future_write_seal_leaves_the_older_mapping_only) {
        _cleanup_close_ int fd = memory_new(PAGE, PAGE, 0);
        char *writer = memory_map(fd, PAGE, PROT_READ | PROT_WRITE), *reader;
        char byte = 'x';

        cr_assert(memfd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
        reader = memory_map(fd, PAGE, PROT_READ);
        writer[5] = 'y';
        cr_assert_eq(reader[5], 'y');
        cr_assert(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
        cr_assert(mprotect(reader, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
        cr_assert(pwrite(fd, &byte, 1, 0) < 0 && errno == EPERM);
        cr_assert(fallocate(fd, PUNCH, 0, PAGE) < 0 && errno == EPERM);
        cr_assert(madvise(writer, PAGE, MADV_REMOVE) < 0 && errno == EPERM, "for its writer, too");
        cr_assert_eq(reader[5], 'y');
        (void) munmap(writer, PAGE);
        (void) munmap(reader, PAGE);
}

TEST(memfd, guest_memory_seals_allow_punching_but_no_resizing) {
        _cleanup_close_ int fd = memory_new(PAGE, PAGE, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        char *addr = memory_map(fd, PAGE, PROT_READ | PROT_WRITE);

        addr[0] = 'x';
        cr_assert(fallocate(fd, PUNCH, 0, PAGE) == 0);
        cr_assert_eq(addr[0], 0);
        cr_assert(ftruncate(fd, 0) < 0 && errno == EPERM);
        cr_assert(ftruncate(fd, 2 * PAGE) < 0 && errno == EPERM);
        cr_assert(memfd_seal(fd, F_SEAL_WRITE) == -EPERM);
        (void) munmap(addr, PAGE);
}

static int reopen_for_writing(void *arg) {
        char path[64];
        int fd;

        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", *(int *) arg);
        fd = open(path, O_RDWR | O_CLOEXEC);
        return fd >= 0 ? 100 : errno;
}

TEST(memfd, mode_keeps_another_user_from_reopening_for_writing) {
        _cleanup_close_ int fd = -1, readonly_fd = -1;

        require_other_uid();
        fd = memory_new(PAGE, PAGE, 0);
        readonly_fd = memfd_reopen_readonly(fd);
        cr_assert(readonly_fd >= 0);
        cr_assert_eq(test_run_as(TEST_OTHER_UID, reopen_for_writing, &readonly_fd), EACCES);
}

TEST(memfd, copy_by_process_vm_writev_refills_a_punched_page) {
        _cleanup_close_ int fd = memory_new(PAGE, PAGE, 0);
        char *addr = memory_map(fd, PAGE, PROT_READ | PROT_WRITE), bytes[3] = "ab";
        struct iovec local = { bytes, 2 }, remote = { addr, 2 };

        addr[0] = 'x';
        cr_assert(fallocate(fd, PUNCH, 0, PAGE) == 0);
        cr_assert_eq(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 2);
        cr_assert(addr[0] == 'a' && addr[1] == 'b' && addr[2] == 0);
        (void) munmap(addr, PAGE);
}

TEST(memfd, read_of_a_hole_allocates_nothing) {
        _cleanup_close_ int fd = memory_new(PAGE, PAGE, 0);
        char byte = 'x';

        cr_assert(pread(fd, &byte, 1, 0) == 1 && byte == 0);
        cr_assert(lseek(fd, 0, SEEK_DATA) < 0 && errno == ENXIO);
}

TEST(memfd, nowait_read_is_not_supported_on_shmem) {
        _cleanup_close_ int fd = memory_new(PAGE, PAGE, 0);
        char byte;

        cr_assert(preadv2(fd, &(struct iovec) { &byte, 1 }, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP);
}
