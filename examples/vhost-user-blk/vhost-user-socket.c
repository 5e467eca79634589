/* SPDX-License-Identifier: MIT */
/* The front-end's connection: whole messages in, replies out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "device.h"

static void front_drop_fds(struct front *front) {
        for (unsigned i = 0; i < front->n_fds; i++)
                front->fds[i] = fd_close(front->fds[i]);
        front->n_fds = 0;
}

int front_reply(struct front *front, size_t size) {
        struct vu_header header = {
                .request = front->header.request,
                .flags = VU_FLAG_VERSION | VU_FLAG_REPLY,
                .size = (uint32_t) size,
        };
        struct iovec iov[] = {
                { .iov_base = &header, .iov_len = sizeof header },
                { .iov_base = &front->payload, .iov_len = size },
        };
        struct msghdr message = { .msg_iov = iov, .msg_iovlen = ELEMENTS(iov) };
        ssize_t n = sendmsg(front->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0)
                return -errno;
        /* A front-end that asks on and on without reading the answers is not worth a queue. */
        return (size_t) n == sizeof header + size ? 0 : -ENOBUFS;
}

static int front_keep_fds(struct front *front, struct msghdr *message) {
        bool fits = !(message->msg_flags & MSG_CTRUNC);

        for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
                const unsigned char *data = CMSG_DATA(c);

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t offset = 0; offset + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); offset += sizeof(int)) {
                        int fd;

                        memcpy(&fd, data + offset, sizeof fd);
                        if (front->n_fds < VU_FDS_MAX)
                                front->fds[front->n_fds++] = fd;
                        else {
                                (void) fd_close(fd);
                                fits = false;
                        }
                }
        }
        return fits ? 0 : -EMSGSIZE;
}

/* Reads on, never beyond the end of the message. 1: it is whole; 0: more has to come. */
static int front_receive(struct front *front) {
        union {
                struct cmsghdr align;
                char data[CMSG_SPACE(VU_FDS_MAX * sizeof(int))];
        } control;
        bool in_header = front->received < sizeof front->header;
        size_t at = in_header ? front->received : front->received - sizeof front->header;
        struct iovec iov = {
                .iov_base = in_header ? (char *) &front->header + at : (char *) &front->payload + at,
                .iov_len = (in_header ? sizeof front->header : front->header.size) - at,
        };
        struct msghdr message = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof control,
        };
        ssize_t n = recvmsg(front->socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        int r;

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        r = front_keep_fds(front, &message);
        if (r < 0)
                return r;
        if (n == 0)
                return -ENOTCONN;
        front->received += (size_t) n;
        if (front->received < sizeof front->header)
                return 0;
        if ((front->header.flags & VU_FLAG_VERSION_MASK) != VU_FLAG_VERSION ||
            front->header.size > sizeof front->payload)
                return -EBADMSG;
        return front->received == sizeof front->header + front->header.size;
}

static int front_on_message(sd_event_source *source UNUSED, int fd UNUSED, uint32_t events, void *userdata) {
        struct front *front = userdata;
        int r;

        /* While a queue drains the socket is not read, but its end is noticed. */
        if (front->draining >= 0) {
                if (events & (EPOLLHUP | EPOLLERR))
                        front_disconnect(front, "it went while a queue was draining");
                return 0;
        }
        r = front_receive(front);
        if (r == 0)
                return 0;
        if (r > 0) {
                r = front_handle(front);
                front->received = 0;
                front_drop_fds(front);
        }
        if (r < 0)
                front_disconnect(front, r == -ENOTCONN ? "it closed the connection" : strerror(-r));
        else if (front->draining >= 0)
                (void) sd_event_source_set_io_events(front->socket_source, 0);
        return 0;
}

void front_disconnect(struct front *front, const char *reason) {
        struct device *device = front->device;

        log_info("front-end: disconnected: %s", reason);
        front->socket_source = sd_event_source_disable_unref(front->socket_source);
        front->socket = fd_close(front->socket);
        front_drop_fds(front);
        front->draining = -1;
        front->closing = true;
        for (unsigned i = 0; i < QUEUES_MAX; i++)
                virtqueue_stop(&device->queues[i], true);
        dirty_log_clear(&device->dirty);
        guest_clear_table(&device->guest);
}

static int front_on_connection(sd_event_source *source UNUSED, int fd, uint32_t events UNUSED, void *userdata) {
        struct front *front = userdata;
        int r;

        front->socket = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (front->socket < 0)
                return 0; /* it went already */
        r = sd_event_add_io(front->device->event, &front->socket_source, front->socket, EPOLLIN, front_on_message,
                            front);
        if (r < 0)
                return r;
        log_info("front-end: connected");
        front->received = 0;
        front->protocol_features = 0;
        front->device->features = 0;
        /* One front-end at a time: the next one waits in the backlog. */
        return sd_event_source_set_enabled(front->listener_source, SD_EVENT_OFF);
}

/* The connection has ended; when its last request has too, the next one may come. */
static void front_finish_closing(struct front *front) {
        struct device *device = front->device;

        for (unsigned i = 0; i < QUEUES_MAX; i++)
                if (!virtqueue_is_idle(&device->queues[i]))
                        return;
        for (unsigned i = 0; i < QUEUES_MAX; i++)
                virtqueue_reset(&device->queues[i]);
        front->closing = false;
        (void) sd_event_source_set_enabled(front->listener_source, SD_EVENT_ON);
}

static void front_finish_draining(struct front *front) {
        struct virtqueue *queue = &front->device->queues[front->draining];
        int r;

        if (!virtqueue_is_idle(queue))
                return;
        front->draining = -1;
        front->payload.state =
                (struct vhost_vring_state) { .index = queue->index, .num = virtqueue_finish_stop(queue) };
        r = front_reply(front, sizeof front->payload.state);
        if (r < 0)
                front_disconnect(front, strerror(-r));
        else
                (void) sd_event_source_set_io_events(front->socket_source, EPOLLIN);
}

void front_turn(struct front *front) {
        if (front->draining >= 0)
                front_finish_draining(front);
        if (front->closing)
                front_finish_closing(front);
}

/* Binds; a socket file that nobody listens on is left over from a predecessor and replaced. */
static int front_bind(int fd, const struct sockaddr_un *address) {
        _cleanup_close_ int probe = -1;
        struct stat st;

        if (bind(fd, (const struct sockaddr *) address, sizeof *address) == 0)
                return 0;
        if (errno != EADDRINUSE)
                return -errno;
        /* Connecting to an ordinary file is refused too: only the type tells that it is no left-over of ours. */
        if (lstat(address->sun_path, &st) < 0)
                return -errno;
        if (!S_ISSOCK(st.st_mode))
                return -ENOTSOCK;
        probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (probe < 0)
                return -errno;
        if (connect(probe, (const struct sockaddr *) address, sizeof *address) == 0 || errno != ECONNREFUSED)
                return -EADDRINUSE;
        if (unlink(address->sun_path) < 0 || bind(fd, (const struct sockaddr *) address, sizeof *address) < 0)
                return -errno;
        return 0;
}

int front_open(struct front *front, struct device *device, const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int r;

        front->device = device;
        if (strlen(path) >= sizeof address.sun_path)
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path));
        front->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (front->listener < 0)
                return -errno;
        r = front_bind(front->listener, &address);
        if (r < 0)
                return r;
        if (lstat(path, &front->path_stat) < 0)
                return -errno;
        front->path = strdup(path);
        if (!front->path)
                return -ENOMEM;
        if (listen(front->listener, 1) < 0)
                return -errno;
        return sd_event_add_io(device->event, &front->listener_source, front->listener, EPOLLIN, front_on_connection,
                               front);
}

/* What lies at our path may be another's by now: a successor's socket, or a file that somebody put there. */
static void front_unlink(const struct front *front) {
        struct stat st;

        if (lstat(front->path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == front->path_stat.st_dev &&
            st.st_ino == front->path_stat.st_ino)
                (void) unlink(front->path);
}

void front_close(struct front *front) {
        front->socket_source = sd_event_source_disable_unref(front->socket_source);
        front->listener_source = sd_event_source_disable_unref(front->listener_source);
        front_drop_fds(front);
        front->socket = fd_close(front->socket);
        /* Before the listener: while we listen, no successor replaces the file between the look and the removal. */
        if (front->path)
                front_unlink(front);
        front->listener = fd_close(front->listener);
        free(front->path);
        front->path = NULL;
}
