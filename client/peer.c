/* SPDX-License-Identifier: MIT */
#include "client/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

int peer_new_uffd(int device_fd) {
        long fd = -1;

        if (device_fd >= 0)
                fd = ioctl(device_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        /* Never with UFFD_USER_MODE_ONLY: system calls and KVM would get errors instead of waiting. */
        if (fd < 0)
                fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return errno == ENOSYS ? -EOPNOTSUPP : -errno;
        return (int) fd;
}

int peer_attach(struct call_channel *channel, int uffd, const char *name, uint32_t *ret_peer) {
        struct pb_message_attach_peer message = {
                .header = { .type = PB_MSG_ATTACH_PEER, .size = sizeof message },
        };
        union link_message reply;
        int r;

        memcpy(message.name, name, strnlen(name, sizeof message.name - 1));
        r = call_exchange(channel, &message, &uffd, 1, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);
        if (r < 0)
                return r;
        if (reply.result.value > UINT32_MAX)
                return -EPROTO;
        *ret_peer = (uint32_t) reply.result.value;
        return 0;
}

int peer_map(struct call_channel *channel, uint32_t peer, uint32_t memory, const void *address, uint64_t length,
             uint64_t offset) {
        struct pb_message_map_peer message = {
                .header = { .type = PB_MSG_MAP_PEER, .size = sizeof message },
                .peer = peer,
                .memory = memory,
                .address = (uintptr_t) address,
                .length = length,
                .offset = offset,
        };
        union link_message reply;

        return call_exchange(channel, &message, NULL, 0, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);
}

int peer_detach(struct call_channel *channel, uint32_t peer) {
        struct pb_message_detach_peer message = {
                .header = { .type = PB_MSG_DETACH_PEER, .size = sizeof message },
                .peer = peer,
        };
        union link_message reply;
        int r = call_exchange(channel, &message, NULL, 0, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);

        /* Done by a broker that has ended before it could say so. */
        return r == -ENOENT ? 0 : r;
}
