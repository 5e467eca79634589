/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/packet.h"
#include "tests/kernel/kernel.h"
#include "tests/lib/uffd.h"

#define PAGES 4
#define WAIT_MS 30000

/* Memory as a peer has it (registered) and as the broker has it. */
struct memory {
        int fd, uffd;
        char *peer, *broker;
};

static void memory_make(struct memory *m) {
        require_uffd();
        m->fd = memory_new(PAGES * PAGE, PAGE, 0);
        m->peer = memory_map(m->fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
        m->broker = memory_map(m->fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
        m->uffd = test_uffd_new();
        cr_assert(test_uffd_register(m->uffd, m->peer, PAGES * PAGE) == 0);
}

static void memory_done(struct memory *m) {
        (void) fd_close(m->uffd);
        (void) munmap(m->peer, PAGES * PAGE);
        (void) munmap(m->broker, PAGES * PAGE);
        (void) fd_close(m->fd);
}

static long touch(void *arg) {
        return *(volatile char *) arg;
}

TEST(userfaultfd, continue_shows_what_was_installed) {
        struct blocked blocked;
        struct memory m;

        memory_make(&m);
        blocked_start(&blocked, touch, m.peer + PAGE);
        cr_assert_eq(test_uffd_wait_fault(m.uffd, WAIT_MS, NULL), (uintptr_t) m.peer + PAGE);
        m.broker[PAGE] = 'x';
        cr_assert(!blocked_is_done(&blocked), "installing alone woke it");
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer + PAGE, PAGE), (int64_t) PAGE);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 'x');
        memory_done(&m);
}

/* Two threads fault on one page and on the next; the first continue maps and wakes only its own. */
TEST(userfaultfd, continue_of_a_mapped_page_wakes_nobody) {
        struct blocked blocked;
        struct memory m;

        memory_make(&m);
        memset(m.broker, 'x', PAGES * PAGE);
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer, PAGE), (int64_t) PAGE);
        blocked_start(&blocked, touch, m.peer + PAGE);
        (void) test_uffd_wait_fault(m.uffd, WAIT_MS, NULL);
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer, 2 * PAGE), -EEXIST);
        cr_assert(blocked_sleeps(&blocked, -1), "the page behind the mapped one was continued");
        cr_assert(test_uffd_wake(m.uffd, m.peer, PAGE) == 0);
        cr_assert(blocked_sleeps(&blocked, -1), "waking one page woke another's waiter");
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer + PAGE, PAGE), (int64_t) PAGE);
        cr_assert(blocked_ends(&blocked));
        memory_done(&m);
}

TEST(userfaultfd, continue_over_a_hole_fails) {
        struct memory m;

        memory_make(&m);
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer, PAGE), -EFAULT);
        memory_done(&m);
}

/* A fault that was read and not answered comes again after a wake: the way a new broker hears of it. */
TEST(userfaultfd, woken_fault_is_reported_again_as_minor) {
        struct blocked blocked;
        struct memory m;
        uint64_t flags;

        memory_make(&m);
        blocked_start(&blocked, touch, m.peer);
        (void) test_uffd_wait_fault(m.uffd, WAIT_MS, &flags);
        cr_assert_eq(flags & UFFD_PAGEFAULT_FLAG_MINOR, 0);
        m.broker[0] = 'x';
        cr_assert(test_uffd_wake(m.uffd, m.peer, PAGES * PAGE) == 0);
        (void) test_uffd_wait_fault(m.uffd, WAIT_MS, &flags);
        cr_assert_neq(flags & UFFD_PAGEFAULT_FLAG_MINOR, 0);
        cr_assert_eq(test_uffd_continue(m.uffd, m.peer, PAGE), (int64_t) PAGE);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 'x');
        memory_done(&m);
}

/* Why everybody who creates a userfaultfd keeps a duplicate for life. */
TEST(userfaultfd, last_close_releases_waiters_onto_zeros) {
        struct blocked blocked;
        struct memory m;
        int duplicate;

        memory_make(&m);
        duplicate = fcntl(m.uffd, F_DUPFD_CLOEXEC, 0);
        cr_assert(duplicate >= 0);
        blocked_start(&blocked, touch, m.peer);
        (void) test_uffd_wait_fault(m.uffd, WAIT_MS, NULL);
        m.uffd = fd_close(m.uffd);
        cr_assert(blocked_sleeps(&blocked, -1), "a close that was not the last released it");
        (void) close(duplicate);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 0);
        memory_done(&m);
}

TEST(userfaultfd, blocking_descriptor_polls_as_an_error) {
        struct memory m;
        struct pollfd p;

        memory_make(&m);
        p = (struct pollfd) { .fd = m.uffd, .events = POLLIN };
        cr_assert_eq(poll(&p, 1, 0), 0);
        cr_assert(fd_set_nonblocking(m.uffd, false) == 0);
        cr_assert(poll(&p, 1, 0) == 1 && (p.revents & POLLERR));
        memory_done(&m);
}

TEST(userfaultfd, read_only_shared_mapping_cannot_be_registered) {
        _cleanup_close_ int uffd = -1, fd = -1, readonly_fd = -1;
        void *addr;

        require_uffd();
        fd = memory_new(PAGE, PAGE, 0);
        readonly_fd = memfd_reopen_readonly(fd);
        addr = memory_map(readonly_fd, PAGE, PROT_READ);
        uffd = test_uffd_new();
        cr_assert_eq(test_uffd_register(uffd, addr, PAGE), -EPERM);
        (void) munmap(addr, PAGE);
}

/* ---- handed over to another process ---- */

struct hand_over {
        int socket[2];
        int fd;
};

/* The peer: makes the descriptor, hands it over with the address, and touches when told. */
static int peer_hands_over(void *arg) {
        struct hand_over *h = arg;
        char *addr = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, h->fd, 0), go;
        int uffd = test_uffd_open();

        CHILD_CHECK(addr != MAP_FAILED && uffd >= 0);
        CHILD_CHECK(packet_send(h->socket[1], &addr, sizeof addr, &uffd, 1, 0) == 0);
        CHILD_CHECK(recv(h->socket[1], &go, 1, 0) == 1);
        return *(volatile char *) addr;
}

TEST(userfaultfd, receiver_can_register_and_serve) {
        _cleanup_close_ int uffd = -1;
        struct packet_info info = PACKET_INFO_INIT;
        struct hand_over h;
        char *addr, *mine;
        pid_t peer;

        require_uffd();
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, h.socket) == 0);
        h.fd = memory_new(PAGE, PAGE, 0);
        mine = memory_map(h.fd, PAGE, PROT_READ | PROT_WRITE);
        peer = test_child_start((uid_t) -1, peer_hands_over, &h);
        cr_assert_eq(packet_receive(h.socket[0], &addr, sizeof addr, &info, 0), (ssize_t) sizeof addr);
        cr_assert_eq(info.n_fds, 1);
        uffd = info.fds[0];
        cr_assert(test_uffd_enable(uffd, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM) == 0);
        cr_assert(test_uffd_register(uffd, addr, PAGE) == 0);
        cr_assert(send(h.socket[0], "g", 1, 0) == 1);
        cr_assert_eq(test_uffd_wait_fault(uffd, WAIT_MS, NULL), (uintptr_t) addr);
        mine[0] = 'z';
        cr_assert_eq(test_uffd_continue(uffd, addr, PAGE), (int64_t) PAGE);
        cr_assert_eq(test_child_wait(peer), 'z');
        (void) munmap(mine, PAGE);
        (void) close(h.fd);
        (void) close(h.socket[0]);
        (void) close(h.socket[1]);
}

/* The owner is gone: poll() does not say so, calls do. */
TEST(userfaultfd, dead_owner_shows_in_calls_only) {
        _cleanup_close_ int uffd = -1;
        struct packet_info info = PACKET_INFO_INIT;
        struct hand_over h;
        char *addr;
        pid_t peer;

        require_uffd();
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, h.socket) == 0);
        h.fd = memory_new(PAGE, PAGE, 0);
        peer = test_child_start((uid_t) -1, peer_hands_over, &h);
        cr_assert_eq(packet_receive(h.socket[0], &addr, sizeof addr, &info, 0), (ssize_t) sizeof addr);
        uffd = info.fds[0];
        cr_assert(test_uffd_enable(uffd, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM) == 0);
        cr_assert(test_uffd_register(uffd, addr, PAGE) == 0);
        cr_assert(kill(peer, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(peer), 128 + SIGKILL);
        cr_assert(test_uffd_is_quiet(uffd));
        cr_assert_eq(test_uffd_wake(uffd, addr, PAGE), 0, "waking needs no memory");
        cr_assert_eq(test_uffd_continue(uffd, addr, PAGE), -ESRCH);
        (void) close(h.fd);
        (void) close(h.socket[0]);
        (void) close(h.socket[1]);
}

static int use_passed_device(void *arg) {
        int device = *(int *) arg, fd;

        CHILD_CHECK(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) < 0 && errno == EACCES);
        fd = ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
        CHILD_CHECK(fd >= 0);
        CHILD_CHECK(test_uffd_enable(fd, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM) == 0);
        return 0;
}

TEST(userfaultfd, opened_device_works_for_another_user) {
        _cleanup_close_ int device = -1;

        require_other_uid();
        require_uffd();
        device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device < 0)
                cr_skip_test("/dev/userfaultfd: %s", strerror(errno));
        cr_assert_eq(test_run_as(TEST_OTHER_UID, use_passed_device, &device), 0);
}
