/* SPDX-License-Identifier: MIT */
/* Sockets that clients come in by: --socket, and what the supervisor passes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "broker/broker.h"
#include "common/cleanup.h"
#include "common/log.h"

static int take_passed(struct broker *broker) {
        for (unsigned i = 0; i < broker->store.n_passed; i++) {
                int fd = broker->store.passed[i];

                if (broker->n_listeners == LISTENERS_MAX || sd_is_socket_unix(fd, SOCK_SEQPACKET, -1, NULL, 0) <= 0) {
                        log_error("$LISTEN_FDS: descriptor %d is not a SOCK_SEQPACKET socket, or one of more than %u", fd,
                                  LISTENERS_MAX);
                        return -EINVAL;
                }
                broker->listeners[broker->n_listeners++] = fd;
        }
        return 0;
}

/* The one that the broker before us made: who has connected to it meanwhile waits there. */
static bool take_kept(struct broker *broker, const struct sockaddr_un *address) {
        _cleanup_close_ int fd = store_take(&broker->store, "pb-listen");
        struct sockaddr_un kept = {};

        if (fd < 0)
                return false;
        if (getsockname(fd, (struct sockaddr *) &kept, &(socklen_t) { sizeof kept }) < 0 ||
            strcmp(kept.sun_path, address->sun_path) != 0) {
                log_warning("--socket=%s: the broker before this one listened at %s; who looks for it there finds nobody",
                            address->sun_path, kept.sun_path);
                store_drop(&broker->store, "pb-listen", 1);
                return false;
        }
        broker->listener_kept = true;
        broker->own_listener = broker->listeners[broker->n_listeners++] = fd_take(&fd);
        return true;
}

/* A socket that nobody listens on is left over from a broker that was killed; anything else is somebody's. */
static int remove_stale(const char *path, const struct sockaddr_un *address) {
        _cleanup_close_ int fd = -1;
        struct stat st;

        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(st.st_mode)) {
                log_error("--socket=%s: exists and is not a socket", path);
                return -EEXIST;
        }
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *) address, sizeof *address) == 0 || errno != ECONNREFUSED) {
                log_error("--socket=%s: in use, by another broker?", path);
                return -EADDRINUSE;
        }
        return unlink(path) < 0 ? -errno : 0;
}

int broker_listen(struct broker *broker) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *path = broker->options->socket;
        _cleanup_close_ int fd = -1;
        mode_t mask;
        int r = take_passed(broker);

        if (r < 0)
                return r;
        if (!path) {
                if (broker->n_listeners > 0)
                        return 0;
                log_error("nowhere to listen: give --socket=PATH, or pass a socket by $LISTEN_FDS");
                return -EINVAL;
        }
        if (broker->n_listeners == LISTENERS_MAX) {
                log_error("--socket=%s: $LISTEN_FDS has passed %u sockets already, and there is room for no more", path,
                          LISTENERS_MAX);
                return -EINVAL;
        }
        if (strlen(path) >= sizeof address.sun_path) {
                log_error("--socket=%s: longer than the %zu bytes that a socket's path may have", path,
                          sizeof address.sun_path - 1);
                return -ENAMETOOLONG;
        }
        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        if (take_kept(broker, &address))
                return 0;
        r = remove_stale(path, &address);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* Everybody may knock: who comes in is decided by the credentials of HELLO (--allow). The directory's mode
         * restricts further. */
        mask = umask(0111);
        if (fd < 0 || bind(fd, (const struct sockaddr *) &address, sizeof address) < 0 || listen(fd, 512) < 0) {
                r = -errno;
                (void) umask(mask);
                log_error("--socket=%s: %s", path, strerror(-r));
                return r;
        }
        (void) umask(mask);
        broker->own_listener = broker->listeners[broker->n_listeners++] = fd_take(&fd);
        return 0;
}
