/* SPDX-License-Identifier: MIT */
/* UFFDIO_POISON (Linux 6.6): what --on-error=poison stands on. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/uffd.h"
#include "tests/kernel/kernel.h"
#include "tests/lib/uffd.h"

static sigjmp_buf after_sigbus;

static void on_sigbus(int signal) {
        siglongjmp(after_sigbus, 1);
}

/* The byte at `addr`, or -1: SIGBUS. */
static int load(const volatile char *addr) {
        struct sigaction action = { .sa_handler = on_sigbus }, saved;
        volatile int value = -1;

        cr_assert_eq(sigaction(SIGBUS, &action, &saved), 0);
        if (sigsetjmp(after_sigbus, 1) == 0)
                value = (unsigned char) *addr;
        cr_assert_eq(sigaction(SIGBUS, &saved, NULL), 0);
        return value;
}

static int poison(int uffd, void *addr, size_t length) {
        struct uffdio_poison arg = { .range = { .start = (uintptr_t) addr, .len = length } };

        return ioctl(uffd, UFFDIO_POISON, &arg) < 0 ? -errno : 0;
}

struct fixture {
        int fd, uffd;
        size_t page, size;
        char *ours, *theirs; /* without and with userfaultfd */
};

static void fixture_start(struct fixture *f, size_t page) {
        *f = (struct fixture) { .page = page, .size = 4 * page };
        require_kernel(6, 6);
        require_uffd();
        if (page > PAGE)
                require_hugepages(4, page);
        f->fd = memory_new(f->size, page, 0);
        f->ours = memory_map(f->fd, f->size, PROT_READ | PROT_WRITE);
        f->theirs = memory_map(f->fd, f->size, PROT_READ | PROT_WRITE);
        f->uffd = test_uffd_new();
        cr_assert_eq(test_uffd_register(f->uffd, f->theirs, f->size), 0);
}

static void fixture_stop(struct fixture *f) {
        (void) munmap(f->ours, f->size);
        (void) munmap(f->theirs, f->size);
        (void) close(f->uffd);
        (void) close(f->fd);
}

static void continue_heals(size_t page) {
        struct fixture f;
        int fds[2];

        fixture_start(&f, page);
        cr_assert_eq(poison(f.uffd, f.theirs, page), 0);
        cr_assert_eq(load(f.theirs), -1);
        cr_assert_eq(pipe(fds), 0);
        cr_assert(write(fds[1], f.theirs, 1) < 0 && errno == EFAULT);
        memset(f.ours, 'A', page);
        cr_assert_eq(load(f.theirs), -1, "the bytes alone do not heal");
        cr_assert_eq(test_uffd_continue(f.uffd, f.theirs, page), (int64_t) page);
        cr_assert_eq(load(f.theirs), 'A');
        (void) close(fds[0]);
        (void) close(fds[1]);
        fixture_stop(&f);
}

TEST(uffd_poison, continue_over_a_mark_heals_it) {
        continue_heals(PAGE);
}

TEST(uffd_poison, continue_over_a_mark_heals_it_on_huge_pages) {
        continue_heals(HUGE_2M);
}

TEST(uffd_poison, second_mark_is_eexist) {
        struct fixture f;

        fixture_start(&f, PAGE);
        cr_assert_eq(poison(f.uffd, f.theirs, PAGE), 0);
        cr_assert_eq(poison(f.uffd, f.theirs, PAGE), -EEXIST);
        fixture_stop(&f);
}

TEST(uffd_poison, mark_does_not_go_with_the_registration) {
        struct fixture f;

        fixture_start(&f, PAGE);
        cr_assert_eq(poison(f.uffd, f.theirs, PAGE), 0);
        memset(f.ours, 'A', PAGE);
        cr_assert_eq(test_uffd_unregister(f.uffd, f.theirs, f.size), 0);
        cr_assert_eq(load(f.theirs), -1);
        fixture_stop(&f);
}

/* The process can take it away by itself, and faults again. */
TEST(uffd_poison, mark_goes_when_it_is_zapped) {
        struct fixture f;

        fixture_start(&f, PAGE);
        cr_assert_eq(poison(f.uffd, f.theirs, PAGE), 0);
        memset(f.ours, 'A', PAGE);
        cr_assert_eq(madvise(f.theirs, PAGE, MADV_DONTNEED), 0);
        cr_assert_eq(test_uffd_unregister(f.uffd, f.theirs, f.size), 0);
        cr_assert_eq(load(f.theirs), 'A');
        fixture_stop(&f);
}
