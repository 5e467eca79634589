/* SPDX-License-Identifier: MIT */
#include "tests/integration/vhost-user-blk/vmm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/lib/process.h"

#define BIT(n) (1ull << (n))

int vmm_connect(const char *path) {
        struct timeval patience = { .tv_sec = TEST_PATIENCE_US / USEC_PER_SEC };
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
        cr_assert(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
        cr_assert(connect(fd, (struct sockaddr *) &addr, sizeof addr) == 0, "%s: %s", path, strerror(errno));
        return fd;
}

bool vmm_send_raw(int socket, const struct vu_header *header, const void *payload, size_t size, const int *fds,
                  unsigned n_fds) {
        union {
                struct cmsghdr align;
                char data[CMSG_SPACE(64 * sizeof(int))];
        } control = { .data = { 0 } };
        struct iovec iov[] = {
                { .iov_base = (void *) (uintptr_t) header, .iov_len = sizeof *header },
                { .iov_base = (void *) (uintptr_t) payload, .iov_len = size },
        };
        struct msghdr message = { .msg_iov = iov, .msg_iovlen = ELEMENTS(iov) };
        struct cmsghdr *c;

        if (n_fds > 0) {
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                c = CMSG_FIRSTHDR(&message);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t) (sizeof *header + size);
}

bool vmm_send(int socket, uint32_t request, uint32_t flags, const void *payload, size_t size, const int *fds,
              unsigned n_fds) {
        struct vu_header header = { .request = request, .flags = VU_FLAG_VERSION | flags, .size = (uint32_t) size };

        return vmm_send_raw(socket, &header, payload, size, fds, n_fds);
}

/* The end of an io_uring of ours (require_io_uring()) interrupts calls that have a time limit. */
static ssize_t receive_all(int socket, void *data, size_t size) {
        ssize_t n;

        do
                n = recv(socket, data, size, MSG_WAITALL);
        while (n < 0 && errno == EINTR);
        return n;
}

void vmm_receive(int socket, uint32_t request, void *payload, size_t size) {
        struct vu_header header;

        cr_assert_eq(receive_all(socket, &header, sizeof header), (ssize_t) sizeof header, "no reply to request %u: %s",
                     request, strerror(errno));
        cr_assert_eq(header.request, request);
        cr_assert(header.flags == (VU_FLAG_VERSION | VU_FLAG_REPLY));
        cr_assert_eq(header.size, size);
        cr_assert(size == 0 || receive_all(socket, payload, size) == (ssize_t) size);
}

bool vmm_is_hung_up(int socket) {
        char bytes[4096];
        ssize_t n;

        do
                n = recv(socket, bytes, sizeof bytes, 0);
        while (n > 0);
        return n == 0 || errno == ECONNRESET;
}

uint64_t vmm_get(int socket, uint32_t request) {
        uint64_t value;

        cr_assert(vmm_send(socket, request, 0, NULL, 0, NULL, 0));
        vmm_receive(socket, request, &value, sizeof value);
        return value;
}

bool vmm_call(int socket, uint32_t request, const void *payload, size_t size, const int *fds, unsigned n_fds) {
        uint64_t refused;

        cr_assert(vmm_send(socket, request, VU_FLAG_NEED_REPLY, payload, size, fds, n_fds), "request %u", request);
        vmm_receive(socket, request, &refused, sizeof refused);
        return refused == 0;
}

bool vmm_call_u64(int socket, uint32_t request, uint64_t value) {
        return vmm_call(socket, request, &value, sizeof value, NULL, 0);
}

bool vmm_call_state(int socket, uint32_t request, unsigned index, unsigned num) {
        struct vhost_vring_state state = { .index = index, .num = num };

        return vmm_call(socket, request, &state, sizeof state, NULL, 0);
}

void vmm_negotiate(int socket, uint64_t features) {
        uint64_t protocol = BIT(VU_PROTOCOL_F_MQ) | BIT(VU_PROTOCOL_F_LOG_SHMFD) | BIT(VU_PROTOCOL_F_REPLY_ACK) |
                            BIT(VU_PROTOCOL_F_CONFIG);

        cr_assert_eq(vmm_get(socket, VU_GET_FEATURES) & features, features);
        cr_assert_eq(vmm_get(socket, VU_GET_PROTOCOL_FEATURES), protocol);
        cr_assert(vmm_send(socket, VU_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof protocol, NULL, 0));
        cr_assert(vmm_call(socket, VU_SET_OWNER, NULL, 0, NULL, 0));
        cr_assert(vmm_call_u64(socket, VU_SET_FEATURES, features | BIT(VU_F_PROTOCOL_FEATURES)));
}

bool vmm_set_memory(int socket, const struct vu_region *regions, unsigned n, const int *fds) {
        struct vu_memory memory = { .n_regions = n };

        memcpy(memory.regions, regions, n * sizeof *regions);
        return vmm_call(socket, VU_SET_MEM_TABLE, &memory, offsetof(struct vu_memory, regions) + n * sizeof *regions,
                        fds, n);
}
