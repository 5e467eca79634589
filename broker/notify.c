/* SPDX-License-Identifier: MIT */
#include "broker/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"

/* #syscalls:broker sendto */

int notify_open(void) {
        const char *path = getenv("NOTIFY_SOCKET");
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        size_t length = path ? strlen(path) : 0;
        _cleanup_close_ int fd = -1;

        if (length < 2 || length >= sizeof addr.sun_path || (path[0] != '/' && path[0] != '@'))
                return -1;
        memcpy(addr.sun_path, path, length);
        if (path[0] == '@')
                addr.sun_path[0] = 0;
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *) &addr,
                              (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length)) < 0) {
                log_warning("cannot reach $NOTIFY_SOCKET (%s): %s", path, strerror(errno));
                return -1;
        }
        return fd_take(&fd);
}

void notify_send(int fd, const char *state) {
        if (fd >= 0)
                (void) send(fd, state, strlen(state), MSG_NOSIGNAL);
}

void notify_printf(int fd, const char *format, ...) {
        char state[1024];
        va_list args;

        va_start(args, format);
        (void) vsnprintf(state, sizeof state, format, args);
        va_end(args);
        notify_send(fd, state);
}
