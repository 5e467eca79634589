/* SPDX-License-Identifier: MIT */
#include "client/link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "common/clock.h"
#include "common/macro.h"
#include "common/packet.h"

void link_copy_text(char *ret, const char *text, unsigned size) {
        unsigned i;

        for (i = 0; i < size - 1 && text[i]; i++)
                ret[i] = (unsigned char) text[i] < ' ' || text[i] == 0x7f ? '?' : text[i];
        ret[i] = 0;
}

int link_error(int32_t error) {
        return error > 0 || error < -4095 ? -EPROTO : error;
}

static size_t message_size(uint32_t type) {
        static const struct {
                uint32_t type;
                size_t size;
        } sizes[] = {
                { PB_MSG_WELCOME, sizeof(struct pb_message_welcome) },
                { PB_MSG_MEMORY, sizeof(struct pb_message_memory) },
                { PB_MSG_REGION, sizeof(struct pb_message_region) },
                { PB_MSG_SESSION, sizeof(struct pb_message_session) },
                { PB_MSG_UFFD_DEVICE, sizeof(struct pb_message_plain) },
                { PB_MSG_READY, sizeof(struct pb_message_plain) },
                { PB_MSG_REFUSED, sizeof(struct pb_message_result) },
                { PB_MSG_RESULT, sizeof(struct pb_message_result) },
                { PB_MSG_LEAVING, sizeof(struct pb_message_of_memory) },
                { PB_MSG_STATS_REPLY, sizeof(struct pb_message_stats_reply) },
        };

        for (size_t i = 0; i < ELEMENTS(sizes); i++)
                if (sizes[i].type == type)
                        return sizes[i].size;
        return 0;
}

/* Waits for `events` until the deadline. The deadline is absolute, so a storm of signals does not extend it. */
static int wait_ready(int socket, short events, uint64_t deadline_us) {
        for (;;) {
                struct pollfd pollfd = { .fd = socket, .events = events };
                uint64_t now_us = clock_now_us(), left_ms;
                int r;

                if (now_us >= deadline_us)
                        return -ETIMEDOUT;
                left_ms = min_u64((deadline_us - now_us) / USEC_PER_MSEC + 1, INT32_MAX);
                r = poll(&pollfd, 1, (int) left_ms);
                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}

int link_receive(int socket, uint64_t deadline_us, union link_message *ret, struct packet_info *ret_info) {
        struct packet_info info;
        union link_message message;
        ssize_t n;

        for (;;) {
                int r;

                n = packet_receive(socket, &message, sizeof message, &info, MSG_DONTWAIT);
                if (n != -EAGAIN)
                        break;
                r = wait_ready(socket, POLLIN, deadline_us);
                if (r < 0)
                        return r;
        }
        if (n == -EMSGSIZE)
                return -EPROTO;
        if (n < 0)
                return (int) n;
        if (n == 0) {
                packet_info_done(&info);
                return -ECONNRESET;
        }
        if ((size_t) n < sizeof message.header || message.header.size != (size_t) n ||
            message_size(message.header.type) != (size_t) n) {
                packet_info_done(&info);
                return -EPROTO;
        }
        memcpy(ret, &message, (size_t) n);
        *ret_info = info;
        return 0;
}

int link_send(int socket, uint64_t deadline_us, const void *message, const int *fds, unsigned n_fds) {
        const struct pb_message_header *header = message;

        for (;;) {
                int r = packet_send(socket, message, header->size, fds, n_fds, MSG_DONTWAIT);

                if (r == -EPIPE)
                        return -ECONNRESET;
                if (r != -EAGAIN)
                        return r;
                r = wait_ready(socket, POLLOUT, deadline_us);
                if (r < 0)
                        return r;
        }
}
