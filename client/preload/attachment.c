/* SPDX-License-Identifier: MIT */
#include "client/preload/attachment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#include "client/call.h"
#include "client/link.h"
#include "client/peer.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/packet.h"

/* Programs expect low numbers for their own (a shell's `exec 3<file`; tests that look for the lowest free one). */
#define FD_NUMBER_MIN 300

#define RETRY_NS 10000000L

static int move_up(int *fd) {
        int high = fcntl(*fd, F_DUPFD_CLOEXEC, FD_NUMBER_MIN);

        if (high < 0) /* a small RLIMIT_NOFILE */
                high = fd_take(fd);
        *fd = fd_close(*fd);
        return high;
}

static int fail(struct attachment *attachment, int error, const char *what) {
        (void) snprintf(attachment->reason, sizeof attachment->reason, "%s: %s", what, strerrordesc_np(-error));
        return error;
}

/* From now on plain blocking calls: see the header's word on seccomp. */
static int make_blocking(int socket) {
        struct timeval timeout = { .tv_sec = CALL_TIMEOUT_US / USEC_PER_SEC };

        if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) < 0 ||
            setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0)
                return -errno;
        return fd_set_nonblocking(socket, false);
}

static void take_socket(struct attachment *attachment, struct link *link) {
        struct stat st;

        attachment->epoch = link->epoch;
        attachment->socket = move_up(&link->socket);
        if (fstat(attachment->socket, &st) == 0)
                attachment->socket_id = st.st_ino;
}

static void take_link(struct attachment *attachment, struct link *link, int *uffd) {
        for (unsigned i = 0; i < link->n_memories; i++)
                attachment->memories[i] = (struct attached_memory) {
                        .fd = fd_take(&link->memories[i].fd),
                        .device = link->memories[i].device,
                        .inode = link->memories[i].inode,
                        .size = link->memories[i].size,
                        .backing_size = link->memories[i].backing_size,
                };
        for (unsigned i = 0; i < link->n_memories; i++)
                memcpy(attachment->memories[i].name, link->memories[i].name, PB_NAME_SIZE);
        attachment->n_memories = link->n_memories;
        attachment->uffd = move_up(uffd);
        take_socket(attachment, link);
}

static int attach(struct attachment *attachment, struct link *link, int *ret_uffd) {
        _cleanup_(call_done) struct call_channel channel;
        _cleanup_close_ int uffd = -1;
        int r;

        call_init(&channel, link->socket);
        uffd = peer_new_uffd(link->uffd_device_fd);
        if (uffd < 0)
                return fail(attachment, uffd, "no userfaultfd that covers system calls can be had here");
        r = peer_attach(&channel, uffd, program_invocation_short_name, &attachment->peer);
        if (r < 0)
                return fail(attachment, r, "the broker does not take a userfaultfd from this process");
        attachment->serial = channel.serial;
        r = make_blocking(link->socket);
        if (r < 0)
                return fail(attachment, r, "setting up the connection");
        *ret_uffd = fd_take(&uffd);
        return 0;
}

static int connect_as(struct attachment *attachment, uint64_t epoch, struct link *ret) {
        char reason[PB_TEXT_SIZE] = "";
        const struct link_options options = {
                .role = attachment->options.role,
                .flags = PB_HELLO_NO_SESSION,
                .epoch = epoch,
                .ring_fd = -1,
                .ret_reason = reason,
        };
        int r = link_open(ret, attachment->options.address, &options);

        if (r >= 0)
                return 0;
        if (!reason[0])
                return fail(attachment, r, "connecting to the broker");
        memcpy(attachment->reason, reason, sizeof reason);
        return r;
}

static int open_once(struct attachment *attachment) {
        _cleanup_close_ int uffd = -1;
        _cleanup_(link_done) struct link link;
        int r;

        link_init(&link);
        r = connect_as(attachment, 0, &link);
        if (r < 0)
                return r;
        r = attach(attachment, &link, &uffd);
        if (r < 0)
                return r;
        take_link(attachment, &link, &uffd);
        return 0;
}

static bool socket_is_ours(const struct attachment *attachment) {
        struct stat st;

        return attachment->socket >= 0 && fstat(attachment->socket, &st) == 0 && S_ISSOCK(st.st_mode) &&
               st.st_ino == attachment->socket_id;
}

/* The answer to our last message. Answers to calls that ran into their timeout come first and are dropped. */
static int receive_result(struct attachment *attachment, struct pb_message_result *ret) {
        ssize_t n;

        do {
                struct packet_info info = PACKET_INFO_INIT;

                n = packet_receive(attachment->socket, ret, sizeof *ret, &info, 0);
                if (n < 0)
                        return n == -EAGAIN ? -ETIMEDOUT : (int) n;
                packet_info_done(&info);
                if (n == 0)
                        return -ECONNRESET;
                if (n != sizeof *ret || ret->header.size != sizeof *ret)
                        return -EPROTO;
        } while (ret->header.serial != 0 && ret->header.serial < attachment->serial);
        if (ret->header.type == PB_MSG_REFUSED && ret->header.serial == 0)
                return ret->error < 0 ? link_error(ret->error) : -ECONNRESET;
        if (ret->header.type != PB_MSG_RESULT || ret->header.serial != attachment->serial)
                return -EPROTO;
        return link_error(ret->error);
}

static bool is_same_memory(const struct attachment *attachment, const struct link *link) {
        if (attachment->n_memories != link->n_memories)
                return false;
        for (unsigned i = 0; i < link->n_memories; i++) {
                const struct attached_memory *ours = &attachment->memories[i];
                const struct link_memory *theirs = &link->memories[i];

                if (ours->device != theirs->device || ours->inode != theirs->inode || ours->size != theirs->size ||
                    ours->backing_size != theirs->backing_size || strcmp(ours->name, theirs->name) != 0)
                        return false;
        }
        return true;
}

/* The next broker has our userfaultfd from its supervisor, and this process is known to it: there is nothing to attach. */
static int reconnect_once(struct attachment *attachment) {
        _cleanup_(link_done) struct link link;
        int r;

        link_init(&link);
        r = connect_as(attachment, attachment->epoch, &link);
        if (r < 0)
                return r;
        if (!is_same_memory(attachment, &link))
                return fail(attachment, -ESTALE, "another guest's broker listens there now");
        r = make_blocking(link.socket);
        if (r < 0)
                return fail(attachment, r, "setting up the connection");
        if (socket_is_ours(attachment))
                (void) fd_close(attachment->socket);
        take_socket(attachment, &link);
        return 0;
}

static bool is_worth_another_try(int error) {
        return error == -ECONNREFUSED || error == -ENOENT || error == -ECONNRESET || error == -EPIPE ||
               error == -EAGAIN || error == -ETIMEDOUT || error == -EMFILE || error == -ENOMEM;
}

static int try_until_answered(struct attachment *attachment, int (*try)(struct attachment *attachment)) {
        uint64_t deadline_us = clock_now_us() + attachment->options.reconnect_us;
        int r;

        while ((r = try(attachment)) < 0 && is_worth_another_try(r) && clock_now_us() < deadline_us)
                (void) nanosleep(&(struct timespec) { .tv_nsec = RETRY_NS }, NULL);
        return r;
}

static int map_once(struct attachment *attachment, unsigned memory, uintptr_t address, uint64_t length,
                    uint64_t offset) {
        struct pb_message_map_peer message = {
                .header = { .type = PB_MSG_MAP_PEER, .size = sizeof message, .serial = ++attachment->serial },
                .peer = attachment->peer,
                .memory = memory,
                .address = address,
                .length = length,
                .offset = offset,
        };
        struct pb_message_result result = {};
        int r;

        if (!socket_is_ours(attachment))
                return fail(attachment, -EBADF, "the program has closed our connection to the broker");
        r = packet_send(attachment->socket, &message, sizeof message, NULL, 0, 0);
        if (r >= 0)
                r = receive_result(attachment, &result);
        if (r >= 0)
                return 0;
        if (!result.text[0]) {
                (void) fail(attachment, r, "asking the broker to register the mapping");
                return r == -EPIPE || r == -ECONNRESET ? -ERESTART : r;
        }
        link_copy_text(attachment->reason, result.text, sizeof attachment->reason);
        return r;
}

int attachment_open(struct attachment *attachment, const struct attachment_options *options) {
        int r;

        attachment->options = *options;
        r = open_once(attachment);
        /* Nobody there is an error. Somebody who died while we talked may have a successor. */
        if ((r == -ECONNRESET || r == -EPIPE) && options->reconnect_us > 0)
                r = try_until_answered(attachment, open_once);
        return r;
}

int attachment_open_again(struct attachment *attachment, const struct attachment_options *options) {
        attachment->options = *options;
        return try_until_answered(attachment, open_once);
}

int attachment_map(struct attachment *attachment, unsigned memory, uintptr_t address, uint64_t length,
                   uint64_t offset) {
        int r;

        /* The broker may have done it and not said so: it is done again. */
        while ((r = map_once(attachment, memory, address, length, offset)) == -ERESTART) {
                if (attachment->options.reconnect_us == 0)
                        return -ECONNRESET;
                r = try_until_answered(attachment, reconnect_once);
                if (r < 0)
                        return r;
        }
        return r;
}

/* Best effort: what the broker is not told of takes up room in its table for us, and does no other harm. */
void attachment_unmap(struct attachment *attachment, uintptr_t address, uint64_t length) {
        struct pb_message_unmap_peer message = {
                .header = { .type = PB_MSG_UNMAP_PEER, .size = sizeof message },
                .peer = attachment->peer,
                .address = address,
                .length = length,
        };
        struct pb_message_result result = {};

        if (!socket_is_ours(attachment))
                return;
        message.header.serial = ++attachment->serial;
        if (packet_send(attachment->socket, &message, sizeof message, NULL, 0, 0) >= 0)
                (void) receive_result(attachment, &result);
}

void attachment_drop_memories(struct attachment *attachment) {
        for (unsigned i = 0; i < attachment->n_memories; i++)
                attachment->memories[i].fd = fd_close(attachment->memories[i].fd);
}

void attachment_forget(struct attachment *attachment) {
        if (socket_is_ours(attachment))
                attachment->socket = fd_close(attachment->socket);
        /* The child's duplicate of the parent's userfaultfd keeps nobody alive that the parent's own does not. */
        if (attachment->uffd >= 0 && fd_get_kind(attachment->uffd) == FD_KIND_USERFAULTFD)
                (void) fd_close(attachment->uffd);
        *attachment = ATTACHMENT_INIT;
}
