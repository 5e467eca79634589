/* SPDX-License-Identifier: MIT */
#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"

int notify_listen(char *ret_address, size_t size) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        socklen_t length = sizeof addr;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        /* Abstract: reachable for a broker that has changed its user, and nothing to be removed at the end. */
        if (fd < 0 || bind(fd, (struct sockaddr *) &addr, sizeof(sa_family_t)) < 0 ||
            setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int) { 1 }, sizeof(int)) < 0 ||
            getsockname(fd, (struct sockaddr *) &addr, &length) < 0)
                return -errno;
        (void) snprintf(ret_address, size, "@%.*s", (int) (length - offsetof(struct sockaddr_un, sun_path) - 1),
                        addr.sun_path + 1);
        return fd_take(&fd);
}

static void parse_line(const char *line, struct notify_message *message) {
        if (strcmp(line, "READY=1") == 0)
                message->ready = true;
        else if (strcmp(line, "STOPPING=1") == 0)
                message->stopping = true;
        else if (strcmp(line, "WATCHDOG=1") == 0)
                message->watchdog = true;
        else if (strcmp(line, "FDSTORE=1") == 0)
                message->store = true;
        else if (strcmp(line, "FDSTOREREMOVE=1") == 0)
                message->forget = true;
        else if (strcmp(line, "BARRIER=1") == 0)
                message->barrier = true;
        else if (strncmp(line, "FDNAME=", 7) == 0)
                (void) snprintf(message->name, sizeof message->name, "%s", line + 7);
        else if (strncmp(line, "STATUS=", 7) == 0)
                (void) snprintf(message->status, sizeof message->status, "%s", line + 7);
        /* FDPOLL=0 is what we do in any case: nothing that is kept is watched for a hang-up. */
}

static void take_control(struct msghdr *header, struct notify_message *message) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                size_t size = c->cmsg_len - CMSG_LEN(0);

                if (c->cmsg_level != SOL_SOCKET)
                        continue;
                if (c->cmsg_type == SCM_RIGHTS) {
                        message->n_fds = (unsigned) (size / sizeof(int));
                        memcpy(message->fds, CMSG_DATA(c), message->n_fds * sizeof(int));
                } else if (c->cmsg_type == SCM_CREDENTIALS) {
                        struct ucred who;

                        memcpy(&who, CMSG_DATA(c), sizeof who);
                        message->sender = who.pid;
                }
        }
}

int notify_receive(int socket, struct notify_message *ret) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * NOTIFY_FDS_MAX) + CMSG_SPACE(sizeof(struct ucred))];
        } control;
        char text[4096], *rest = text, *line;
        struct iovec iov = { .iov_base = text, .iov_len = sizeof text - 1 };
        struct msghdr header = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof control,
        };
        ssize_t n = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        *ret = (struct notify_message) {};
        if (n < 0)
                return errno == EINTR ? -EAGAIN : -errno;
        take_control(&header, ret);
        if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
                notify_message_done(ret);
                return -EBADMSG;
        }
        text[n] = 0;
        while ((line = strsep(&rest, "\n")))
                parse_line(line, ret);
        return 0;
}

void notify_message_done(struct notify_message *message) {
        for (unsigned i = 0; i < message->n_fds; i++)
                (void) fd_close(message->fds[i]);
        message->n_fds = 0;
}
