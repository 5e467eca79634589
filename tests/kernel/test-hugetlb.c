/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/kernel/kernel.h"
#include "tests/lib/uffd.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

#define POOL_MAX 16384u /* whoever has set more aside needs them */

/* Takes what is left in the pool: also what others have set aside before. */
static int drain_pool(void **ret_addr) {
        int fd = memory_new(POOL_MAX * HUGE_2M, HUGE_2M, 0);
        unsigned n = 0;

        *ret_addr = mmap(NULL, POOL_MAX * HUGE_2M, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        cr_assert(*ret_addr != MAP_FAILED);
        while (n < POOL_MAX && madvise((char *) *ret_addr + n * HUGE_2M, HUGE_2M, MADV_POPULATE_WRITE) == 0)
                n++;
        if (n == POOL_MAX)
                cr_skip_test("the pool of huge pages has %u and more", n);
        return fd;
}

static int store(void *arg) {
        /* AddressSanitizer catches it otherwise. */
        (void) signal(SIGBUS, SIG_DFL);
        *(volatile char *) arg = 1;
        return 0;
}

/* The reservation goes with the punched page; backing fails with an errno, a store by SIGBUS, a copy with EFAULT. */
TEST(hugetlb, punched_page_cannot_be_had_again_from_an_empty_pool) {
        _cleanup_close_ int fd = -1, drained = -1, zero = -1;
        char *addr, *other, byte = 'x';
        struct iovec local = { &byte, 1 }, remote;
        void *rest;

        require_hugepages(2, HUGE_2M);
        fd = memory_new(HUGE_2M, HUGE_2M, 0);
        addr = memory_map(fd, HUGE_2M, PROT_READ | PROT_WRITE);
        addr[0] = 'a';
        cr_assert(fallocate(fd, PUNCH, 0, (off_t) HUGE_2M) == 0);
        drained = drain_pool(&rest);
        other = addr;
        remote = (struct iovec) { other, 1 };
        zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        cr_assert(read(zero, other, 1) < 0 && errno == EFAULT);
        cr_assert(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0 && errno == EFAULT);
        cr_assert(madvise(addr, HUGE_2M, MADV_POPULATE_WRITE) < 0);
        cr_assert_eq(test_run_as((uid_t) -1, store, addr), 128 + SIGBUS);
        (void) munmap(rest, POOL_MAX * HUGE_2M);
        (void) munmap(addr, HUGE_2M);
}

TEST(hugetlb, continue_of_a_part_is_refused_and_of_the_whole_shows_zeros_beside) {
        _cleanup_close_ int fd = -1, uffd = -1;
        char *peer, *broker;

        require_uffd();
        require_hugepages(1, HUGE_2M);
        fd = memory_new(HUGE_2M, HUGE_2M, 0);
        peer = memory_map(fd, HUGE_2M, PROT_READ | PROT_WRITE);
        broker = memory_map(fd, HUGE_2M, PROT_READ | PROT_WRITE);
        uffd = test_uffd_new();
        cr_assert(test_uffd_register(uffd, peer, HUGE_2M) == 0);
        broker[0] = 'x';
        cr_assert_eq(test_uffd_continue(uffd, peer, PAGE), -EINVAL);
        cr_assert_eq(test_uffd_continue(uffd, peer, HUGE_2M), (int64_t) HUGE_2M);
        cr_assert(peer[0] == 'x' && peer[PAGE] == 0, "nothing but whole backing pages may be continued");
        (void) munmap(peer, HUGE_2M);
        (void) munmap(broker, HUGE_2M);
}

TEST(hugetlb, memfd_takes_the_same_seals) {
        _cleanup_close_ int fd = -1;
        char *writer;

        require_hugepages(1, HUGE_2M);
        fd = memory_new(HUGE_2M, HUGE_2M, 0);
        writer = memory_map(fd, HUGE_2M, PROT_READ | PROT_WRITE);
        cr_assert(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
        cr_assert(ftruncate(fd, 0) < 0 && errno == EPERM);
        cr_assert(fallocate(fd, PUNCH, 0, (off_t) HUGE_2M) == 0);
        (void) munmap(writer, HUGE_2M);
}
