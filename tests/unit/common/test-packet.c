/* SPDX-License-Identifier: MIT */
#include "common/packet.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "tests/lib/test.h"

static void open_pair(int pair[2]) {
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
}

static void close_pair(int pair[2]) {
        (void) close(pair[0]);
        (void) close(pair[1]);
}

TEST(packet, data_and_descriptors_arrive_in_order) {
        struct packet_info info = PACKET_INFO_INIT;
        int pair[2], fds[2];
        char buf[16];

        open_pair(pair);
        fds[0] = eventfd(1, EFD_CLOEXEC);
        fds[1] = memfd_new("packet", 4096, 4096);
        cr_assert_eq(packet_send(pair[0], "hello", 5, fds, 2, 0), 0);
        cr_assert_eq(packet_receive(pair[1], buf, sizeof buf, &info, 0), 5);
        cr_assert(memcmp(buf, "hello", 5) == 0);
        cr_assert_eq(info.n_fds, 2);
        cr_assert_eq(fd_get_kind(info.fds[0]), FD_KIND_EVENTFD);
        cr_assert_eq(fd_get_kind(info.fds[1]), FD_KIND_MEMFD);
        packet_info_done(&info);
        cr_assert_eq(info.n_fds, 0);
        (void) close(fds[0]);
        (void) close(fds[1]);
        close_pair(pair);
}

TEST(packet, end_is_zero_and_emptiness_is_eagain) {
        struct packet_info info;
        int pair[2];
        char buf[16];

        open_pair(pair);
        cr_assert_eq(packet_receive(pair[1], buf, sizeof buf, &info, 0), -EAGAIN);
        pair[0] = fd_close(pair[0]);
        cr_assert_eq(packet_receive(pair[1], buf, sizeof buf, &info, 0), 0);
        cr_assert_eq(packet_send(pair[1], "x", 1, NULL, 0, 0), -EPIPE);
        pair[1] = fd_close(pair[1]);
}

TEST(packet, longer_than_expected_is_refused_and_its_descriptors_closed) {
        struct packet_info info;
        int pair[2], fd = eventfd(0, EFD_CLOEXEC), before;
        char buf[4];

        open_pair(pair);
        before = fd_count_open();
        cr_assert_eq(packet_send(pair[0], "hello", 5, &fd, 1, 0), 0);
        cr_assert_eq(packet_receive(pair[1], buf, sizeof buf, &info, 0), -EMSGSIZE);
        cr_assert_eq(fd_count_open(), before);
        (void) close(fd);
        close_pair(pair);
}

TEST(packet, descriptor_without_room_does_not_arrive) {
        static const struct packet_room none = {}, one = { .n_fds = 1 };
        struct packet_info info;
        int pair[2], fds[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) }, before;
        char buf[16];

        open_pair(pair);
        before = fd_count_open();
        for (unsigned n = 1; n <= 2; n++) {
                cr_assert_eq(packet_send(pair[0], "hello", 5, fds, n, 0), 0);
                cr_assert_eq(packet_receive_exact(pair[1], buf, sizeof buf, n == 1 ? &none : &one, &info, 0), -EMSGSIZE);
                cr_assert_eq(info.n_fds, n - 1); /* the caller closes what did come */
                packet_info_done(&info);
                cr_assert_eq(fd_count_open(), before);
        }
        (void) close(fds[0]);
        (void) close(fds[1]);
        close_pair(pair);
}

TEST(packet, credentials_are_the_senders) {
        struct packet_info info = PACKET_INFO_INIT;
        int pair[2];
        char buf[16];

        open_pair(pair);
        cr_assert(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &(int) { 1 }, sizeof(int)) == 0);
        cr_assert_eq(packet_send(pair[0], "x", 1, NULL, 0, 0), 0);
        cr_assert_eq(packet_receive(pair[1], buf, sizeof buf, &info, 0), 1);
        cr_assert(info.has_credentials);
        cr_assert_eq(info.credentials.pid, getpid());
        cr_assert_eq(info.credentials.uid, getuid());
        packet_info_done(&info);
        close_pair(pair);
}

TEST(packet, too_many_descriptors_are_not_sent) {
        int fds[PACKET_FDS_MAX + 1] = {};

        cr_assert_eq(packet_send(-1, "x", 1, fds, PACKET_FDS_MAX + 1, 0), -EINVAL);
}
