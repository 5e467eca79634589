/* SPDX-License-Identifier: MIT */
#include "common/packet.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 /* Linux 6.5 */
#endif

void packet_info_done(struct packet_info *info) {
        for (unsigned i = 0; i < info->n_fds; i++)
                info->fds[i] = fd_close(info->fds[i]);
        info->n_fds = 0;
        info->pidfd = fd_close(info->pidfd);
}

int packet_send(int socket, const void *data, size_t size, const int *fds, unsigned n_fds, int flags) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * PACKET_FDS_MAX)];
        } control = {};
        struct iovec iov = { .iov_base = (void *) data, .iov_len = size };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        if (n_fds > PACKET_FDS_MAX)
                return -EINVAL;
        if (n_fds > 0) {
                struct cmsghdr *cmsg;

                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                cmsg = CMSG_FIRSTHDR(&message);
                cmsg->cmsg_level = SOL_SOCKET;
                cmsg->cmsg_type = SCM_RIGHTS;
                cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
        }
        do
                n = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        return (size_t) n == size ? 0 : -EIO;
}

static void take_control(struct msghdr *message, struct packet_info *info, bool *ret_overflow) {
        for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg; cmsg = CMSG_NXTHDR(message, cmsg)) {
                size_t size = cmsg->cmsg_len - CMSG_LEN(0);

                if (cmsg->cmsg_level != SOL_SOCKET)
                        continue;
                if (cmsg->cmsg_type == SCM_RIGHTS) {
                        for (size_t i = 0; i < size / sizeof(int); i++) {
                                int fd;

                                memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof fd);
                                if (info->n_fds < PACKET_FDS_MAX)
                                        info->fds[info->n_fds++] = fd;
                                else {
                                        (void) fd_close(fd);
                                        *ret_overflow = true;
                                }
                        }
                } else if (cmsg->cmsg_type == SCM_CREDENTIALS && size == sizeof(struct ucred)) {
                        memcpy(&info->credentials, CMSG_DATA(cmsg), sizeof(struct ucred));
                        info->has_credentials = true;
                } else if (cmsg->cmsg_type == SCM_PIDFD && size == sizeof(int)) {
                        info->pidfd = fd_close(info->pidfd);
                        memcpy(&info->pidfd, CMSG_DATA(cmsg), sizeof(int));
                }
        }
}

ssize_t packet_receive_exact(int socket, void *data, size_t size, const struct packet_room *room,
                             struct packet_info *ret_info, int flags) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * PACKET_FDS_MAX) + CMSG_SPACE(sizeof(struct ucred)) +
                           CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = data, .iov_len = size };
        struct msghdr message = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
        };
        struct packet_info info = PACKET_INFO_INIT;
        bool overflow = false;
        ssize_t n;

        if (room->credentials)
                message.msg_controllen += CMSG_SPACE(sizeof(struct ucred));
        if (room->pidfd)
                message.msg_controllen += CMSG_SPACE(sizeof(int));
        /* CMSG_LEN: the padding of CMSG_SPACE would be room for one more. The kernel puts descriptors last. */
        if (room->n_fds > 0)
                message.msg_controllen += CMSG_LEN(sizeof(int) * room->n_fds);
        if (message.msg_controllen == 0)
                message.msg_control = NULL;
        do
                n = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        take_control(&message, &info, &overflow);
        *ret_info = info;
        return overflow || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EMSGSIZE : n;
}

ssize_t packet_receive(int socket, void *data, size_t size, struct packet_info *ret_info, int flags) {
        static const struct packet_room room = { .n_fds = PACKET_FDS_MAX, .credentials = true, .pidfd = true };
        struct packet_info info = PACKET_INFO_INIT;
        ssize_t n = packet_receive_exact(socket, data, size, &room, &info, flags);

        if (n == -EMSGSIZE)
                packet_info_done(&info);
        if (n >= 0)
                *ret_info = info;
        return n;
}
