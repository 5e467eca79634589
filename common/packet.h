/* SPDX-License-Identifier: MIT */
/* SOCK_SEQPACKET packets with descriptors and credentials. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#define PACKET_FDS_MAX 8

struct packet_info {
        int fds[PACKET_FDS_MAX]; /* close-on-exec; the caller's from now on */
        unsigned n_fds;
        bool has_credentials;
        struct ucred credentials; /* of the sender */
        int pidfd;                /* of the sender, or -1 (SO_PASSPIDFD, Linux 6.5) */
};

#define PACKET_INFO_INIT ((struct packet_info) { .pidfd = -1 })

/* Closes what has not been taken. */
void packet_info_done(struct packet_info *info);

/* Sends one packet; `flags` as send(2), MSG_NOSIGNAL is added. Returns 0 or a negative errno. */
int packet_send(int socket, const void *data, size_t size, const int *fds, unsigned n_fds, int flags);

/*
 * Receives one packet of at most `size` bytes; `flags` as recv(2), MSG_CMSG_CLOEXEC is added. Returns its length, 0 at
 * the end, -EMSGSIZE for a longer packet or more descriptors than fit (closed), or a negative errno.
 */
ssize_t packet_receive(int socket, void *data, size_t size, struct packet_info *ret_info, int flags);

/* What may come along with the data. */
struct packet_room {
        unsigned n_fds; /* at most PACKET_FDS_MAX */
        bool credentials;
        bool pidfd;
};

/*
 * The same with room for exactly that; a descriptor too many is dropped by the kernel inside the call, -EMSGSIZE. Then
 * too those that came are in `ret_info`, the caller's to close: close() of a hostile one can hang for ever, and so
 * can the kernel's dropping it, unless this is a peek (MSG_PEEK), which leaves the message its own.
 */
ssize_t packet_receive_exact(int socket, void *data, size_t size, const struct packet_room *room,
                             struct packet_info *ret_info, int flags);
