/* SPDX-License-Identifier: MIT */
/*
 * Who writes into the memfd from memory that never resolves holds the inode's lock meanwhile: calls that take it hang,
 * the two by which the broker installs pages do not.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/kernel/kernel.h"
#include "tests/lib/uffd.h"

#define PAGES 8

struct attack {
        int fd, uffd;
        char *memory;
        char *never; /* registered, and nobody answers */
        struct blocked writer;
};

static long write_from_never(void *arg) {
        struct attack *a = arg;

        return pwrite(a->fd, a->never, PAGE, 0);
}

static void attack_start(struct attack *a) {
        require_uffd();
        a->fd = memory_new(PAGES * PAGE, PAGE, 0);
        a->memory = memory_map(a->fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
        a->never = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(a->never != MAP_FAILED);
        a->uffd = test_uffd_new();
        cr_assert(test_uffd_register(a->uffd, a->never, PAGE) == 0);
        blocked_start(&a->writer, write_from_never, a);
        (void) test_uffd_wait_fault(a->uffd, 30000, NULL);
}

static void attack_end(struct attack *a) {
        /* The last close lets the writer go on. */
        (void) fd_close(a->uffd);
        cr_assert(blocked_ends(&a->writer));
        (void) munmap(a->memory, PAGES * PAGE);
        (void) munmap(a->never, PAGE);
        (void) fd_close(a->fd);
}

static long back_and_copy(void *arg) {
        struct attack *a = arg;
        char bytes[] = "installed";
        struct iovec local = { bytes, sizeof bytes }, remote = { a->memory + 4 * PAGE, sizeof bytes };

        if (madvise(a->memory + 4 * PAGE, PAGE, MADV_POPULATE_WRITE) < 0)
                return -1;
        return process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
}

TEST(inode_lock, held_by_a_hostile_write_does_not_stop_installing) {
        struct attack a;
        struct blocked install;

        attack_start(&a);
        blocked_start(&install, back_and_copy, &a);
        cr_assert(blocked_ends(&install), "installing hangs");
        cr_assert_eq(install.result, 10);
        cr_assert_str_eq(a.memory + 4 * PAGE, "installed");
        cr_assert(!blocked_is_done(&a.writer));
        attack_end(&a);
}

static long punch(void *arg) {
        struct attack *a = arg;

        return fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * PAGE, PAGE);
}

/* Why a discard runs on a thread of its own, with a deadline. */
TEST(inode_lock, held_by_a_hostile_write_stops_punching) {
        struct attack a;
        struct blocked puncher;

        attack_start(&a);
        blocked_start(&puncher, punch, &a);
        cr_assert(blocked_sleeps(&puncher, SYS_fallocate));
        cr_assert(!blocked_is_done(&a.writer));
        attack_end(&a);
        cr_assert(blocked_ends(&puncher));
        cr_assert_eq(puncher.result, 0);
}

static long write_elsewhere(void *arg) {
        struct attack *a = arg;

        return pwrite(a->fd, "x", 1, 6 * PAGE);
}

/* Why bytes never go in by pwrite(). */
TEST(inode_lock, held_by_a_hostile_write_stops_other_writes) {
        struct attack a;
        struct blocked writer;

        attack_start(&a);
        blocked_start(&writer, write_elsewhere, &a);
        cr_assert(blocked_sleeps(&writer, SYS_pwrite64));
        attack_end(&a);
        cr_assert(blocked_ends(&writer));
}
