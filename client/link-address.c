/* SPDX-License-Identifier: MIT */
#include "client/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"

static int parse_fd(const char *text, int *ret) {
        char *end;
        long n;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        errno = 0;
        n = strtol(text, &end, 10);
        if (errno != 0 || *end || n > INT32_MAX)
                return -EINVAL;
        *ret = (int) n;
        return 0;
}

static bool is_seqpacket(int fd) {
        int domain = 0, type = 0;
        socklen_t domain_size = sizeof domain, type_size = sizeof type;

        return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_size) == 0 && domain == AF_UNIX &&
               getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 && type == SOCK_SEQPACKET;
}

/* The caller's descriptor stays the caller's: a duplicate is used. */
static int connect_inherited(const char *text) {
        _cleanup_close_ int fd = -1;
        int inherited, r;

        r = parse_fd(text, &inherited);
        if (r < 0)
                return r;
        fd = fcntl(inherited, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return -errno;
        if (fd_get_kind(fd) != FD_KIND_SOCKET || !is_seqpacket(fd))
                return -EPROTO;
        /* The broker knows its clients by the credentials of HELLO, and may not have looked at this socket yet. */
        if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int) { 1 }, sizeof(int)) < 0)
                return -errno;
        return fd_take(&fd);
}

static int connect_path(const char *path, uint64_t deadline_us) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -1;
        uint64_t left_us, now_us = clock_now_us();
        struct timeval timeout;
        size_t length = strlen(path);

        if (length >= sizeof address.sun_path)
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, length);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        /* A full backlog makes connect() wait for room, and SO_SNDTIMEO is what bounds that wait (unix(7) has no
         * EINPROGRESS). */
        left_us = deadline_us > now_us ? deadline_us - now_us : 1;
        timeout = (struct timeval) { .tv_sec = (time_t) (left_us / USEC_PER_SEC),
                                     .tv_usec = (suseconds_t) (left_us % USEC_PER_SEC) };
        (void) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
        while (connect(fd, (const struct sockaddr *) &address, sizeof address) < 0) {
                if (errno == EINTR && clock_now_us() < deadline_us)
                        continue;
                if (errno == EAGAIN || errno == EINTR)
                        return -ETIMEDOUT;
                /* Something listens there that speaks streams: not a broker. */
                return errno == EPROTOTYPE ? -EPROTO : -errno;
        }
        return fd_take(&fd);
}

int link_connect(const char *address, uint64_t deadline_us) {
        if (!address || !*address)
                return -EINVAL;
        if (strncmp(address, "fd:", 3) == 0)
                return connect_inherited(address + 3);
        return connect_path(address, deadline_us);
}
