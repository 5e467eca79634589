/* SPDX-License-Identifier: MIT */
#include "client/link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/macro.h"
#include "common/packet.h"
#include "protocol/presence.h"
#include "protocol/ring.h"
#include "protocol/session-state.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* PROTOCOL.md, "Objects". */
#define SEALS_SHARED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_READONLY (SEALS_SHARED | F_SEAL_FUTURE_WRITE)

struct handshake {
        struct link *link;
        const struct link_options *options;
        uint64_t deadline_us;
        union link_message message;
        struct packet_info info;
};

void link_init(struct link *link) {
        memset(link, 0, sizeof *link);
        link->socket = link->uffd_device_fd = -1;
        link->session = (struct link_session) { -1, -1, -1, -1, 0 };
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                link->memories[i].fd = link->memories[i].map_fd = -1;
}

void link_done(struct link *link) {
        /* Others may hold duplicates ("fd:N", children): the broker shall see the end all the same. */
        if (link->socket >= 0)
                (void) shutdown(link->socket, SHUT_RDWR);
        link->socket = fd_close(link->socket);
        link->uffd_device_fd = fd_close(link->uffd_device_fd);
        link->session.ring_fd = fd_close(link->session.ring_fd);
        link->session.state_fd = fd_close(link->session.state_fd);
        link->session.doorbell_fd = fd_close(link->session.doorbell_fd);
        link->session.completion_fd = fd_close(link->session.completion_fd);
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++) {
                link->memories[i].fd = fd_close(link->memories[i].fd);
                link->memories[i].map_fd = fd_close(link->memories[i].map_fd);
        }
}

static int take_refusal(struct handshake *h) {
        int error = link_error(h->message.result.error);

        if (h->options->ret_reason)
                link_copy_text(h->options->ret_reason, h->message.result.text, PB_TEXT_SIZE);
        return error < 0 ? error : -EPROTO;
}

/* Drops the descriptors of the message before, then takes the next one. */
static int receive(struct handshake *h) {
        int r;

        packet_info_done(&h->info);
        r = link_receive(h->link->socket, h->deadline_us, &h->message, &h->info);
        if (r < 0)
                return r;
        if (h->message.header.type == PB_MSG_REFUSED)
                return take_refusal(h);
        return h->message.header.serial == 0 ? 0 : -EPROTO;
}

static int expect(struct handshake *h, uint32_t type, unsigned n_fds) {
        int r = receive(h);

        if (r < 0)
                return r;
        return h->message.header.type == type && h->info.n_fds == n_fds ? 0 : -EPROTO;
}

static int send_hello(struct handshake *h) {
        const char *name = h->options->name ?: program_invocation_short_name;
        struct pb_message_hello hello = {
                .header = { .type = PB_MSG_HELLO, .size = sizeof hello },
                .version_min = PB_VERSION_MIN,
                .version_max = PB_VERSION_MAX,
                .compat = h->options->compat,
                .incompat = PB_FEATURES_INCOMPAT,
                .epoch = h->options->epoch,
                .role = h->options->role,
                .flags = h->options->flags,
        };
        bool has_ring = hello.epoch != 0 && h->options->ring_fd >= 0;

        memcpy(hello.name, name, strnlen(name, sizeof hello.name - 1));
        return link_send(h->link->socket, h->deadline_us, &hello, &h->options->ring_fd, has_ring ? 1 : 0);
}

static int take_welcome(struct handshake *h) {
        const struct pb_message_welcome *welcome = &h->message.welcome;
        int r = expect(h, PB_MSG_WELCOME, 0);

        if (r < 0)
                return r;
        if (welcome->version < PB_VERSION_MIN || welcome->version > PB_VERSION_MAX ||
            welcome->incompat & ~PB_FEATURES_INCOMPAT)
                return -EPROTONOSUPPORT;
        if (welcome->role != h->options->role || welcome->epoch == 0 || welcome->n_memories > PB_MEMORIES_MAX ||
            welcome->n_regions > PB_REGIONS_MAX)
                return -EPROTO;
        h->link->role = welcome->role;
        h->link->epoch = welcome->epoch;
        h->link->session_id = welcome->session_id;
        h->link->n_memories = welcome->n_memories;
        h->link->n_regions = welcome->n_regions;
        link_copy_text(h->link->vm_name, welcome->name, PB_NAME_SIZE);
        return 0;
}

static bool memory_is_sane(const struct pb_message_memory *m) {
        return m->size > 0 && m->size <= PB_MEMORY_SIZE_MAX &&
               (m->backing_size == PB_PAGE_BYTES || m->backing_size == 2ull << 20 || m->backing_size == 1ull << 30) &&
               is_aligned(m->size, m->backing_size) && m->map_size >= presence_map_size(m->size / PB_PAGE_BYTES) &&
               m->map_size <= PB_MEMORY_SIZE_MAX;
}

static int check_memory_fds(const struct pb_message_memory *m, int fd, int map_fd) {
        struct stat st;
        int r;

        r = memfd_check(fd, m->size, SEALS_SHARED);
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0 || st.st_dev != m->device || st.st_ino != m->inode)
                return -EPROTO;
        return memfd_check(map_fd, m->map_size, SEALS_READONLY);
}

int link_take_memory(struct link_memory *ret, const struct pb_message_memory *message, struct packet_info *info, bool has_fds) {
        int r;

        if (message->size == 0) /* not plugged in */
                return info->n_fds == 0 ? 0 : -EPROTO;
        if (!memory_is_sane(message) || info->n_fds != (has_fds ? 2 : 0))
                return -EPROTO;
        if (has_fds) {
                r = check_memory_fds(message, info->fds[0], info->fds[1]);
                if (r < 0)
                        return r;
                ret->fd = fd_take(&info->fds[0]);
                ret->map_fd = fd_take(&info->fds[1]);
        }
        ret->size = message->size;
        ret->backing_size = message->backing_size;
        ret->map_size = message->map_size;
        ret->device = message->device;
        ret->inode = message->inode;
        ret->flags = message->flags;
        link_copy_text(ret->name, message->name, PB_NAME_SIZE);
        return 0;
}

int link_take_region(struct link_region *ret, const struct pb_message_region *message, const struct link_memory *memory) {
        if (message->size == 0 || !is_aligned(message->gpa | message->size | message->offset, PB_PAGE_BYTES) ||
            !range_fits(message->offset, message->size, memory->size))
                return -EPROTO;
        /* No end at 2^64: nothing after this has to think of overflow. */
        if (message->size > UINT64_MAX - message->gpa)
                return -EPROTO;
        *ret = (struct link_region) {
                .memory = message->memory, .gpa = message->gpa, .size = message->size, .offset = message->offset,
        };
        return 0;
}

static int take_memory(struct handshake *h, unsigned index) {
        int r = receive(h);

        if (r < 0)
                return r;
        if (h->message.header.type != PB_MSG_MEMORY || h->message.memory.index != index)
                return -EPROTO;
        return link_take_memory(&h->link->memories[index], &h->message.memory, &h->info, h->link->role != PB_ROLE_OBSERVER);
}

static int take_region(struct handshake *h, unsigned index) {
        const struct pb_message_region *message = &h->message.region;
        uint64_t free_from = index > 0 ? h->link->regions[index - 1].gpa + h->link->regions[index - 1].size : 0;
        int r;

        r = expect(h, PB_MSG_REGION, 0);
        if (r < 0)
                return r;
        /* Ascending and apart. */
        if (message->index != index || message->memory >= h->link->n_memories || message->gpa < free_from)
                return -EPROTO;
        return link_take_region(&h->link->regions[index], message, &h->link->memories[message->memory]);
}

static bool is_stream(int fd) {
        int type = 0;
        socklen_t size = sizeof type;

        return fd_get_kind(fd) == FD_KIND_SOCKET && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
               type == SOCK_STREAM;
}

static int take_session(struct handshake *h) {
        const struct pb_message_session *message = &h->message.session;
        int *fds = h->info.fds;
        int r;

        r = expect(h, PB_MSG_SESSION, 4);
        if (r < 0)
                return r;
        if (message->ring_size != sizeof(struct pb_ring) || message->state_size != sizeof(struct pb_session_state) ||
            message->n_slots != PB_RING_SLOTS)
                return -EPROTO;
        r = memfd_check(fds[0], message->ring_size, SEALS_SHARED);
        if (r >= 0)
                r = memfd_check(fds[1], message->state_size, SEALS_READONLY);
        if (r < 0)
                return r;
        if (fd_get_kind(fds[2]) != FD_KIND_EVENTFD || !is_stream(fds[3]))
                return -EPROTO;
        h->link->session = (struct link_session) {
                .ring_fd = fd_take(&fds[0]), .state_fd = fd_take(&fds[1]),
                .doorbell_fd = fd_take(&fds[2]), .completion_fd = fd_take(&fds[3]), .flags = message->flags,
        };
        return 0;
}

/* UFFD_DEVICE, perhaps, and READY. */
static int take_end(struct handshake *h) {
        int r = receive(h);

        if (r < 0)
                return r;
        if (h->message.header.type == PB_MSG_UFFD_DEVICE) {
                if (h->info.n_fds != 1 || fd_get_kind(h->info.fds[0]) != FD_KIND_USERFAULTFD_DEVICE)
                        return -EPROTO;
                h->link->uffd_device_fd = fd_take(&h->info.fds[0]);
                return expect(h, PB_MSG_READY, 0);
        }
        return h->message.header.type == PB_MSG_READY && h->info.n_fds == 0 ? 0 : -EPROTO;
}

static void handshake_done(struct handshake *h) {
        packet_info_done(&h->info);
}

static int take_answers(struct handshake *h) {
        int r = take_welcome(h);

        for (unsigned i = 0; r >= 0 && i < h->link->n_memories; i++)
                r = take_memory(h, i);
        for (unsigned i = 0; r >= 0 && i < h->link->n_regions; i++)
                r = take_region(h, i);
        if (r >= 0 && h->options->role != PB_ROLE_OBSERVER && !(h->options->flags & PB_HELLO_NO_SESSION))
                r = take_session(h);
        return r < 0 ? r : take_end(h);
}

int link_start(struct link *link, const char *address, const struct link_options *options, uint64_t deadline_us) {
        struct handshake h = { .link = link, .options = options, .deadline_us = deadline_us };

        if (options->ret_reason)
                options->ret_reason[0] = 0;
        link->socket = link_connect(address, deadline_us);
        return link->socket < 0 ? link->socket : send_hello(&h);
}

int link_finish(struct link *link, const struct link_options *options, uint64_t deadline_us) {
        _cleanup_(handshake_done) struct handshake h = {
                .link = link,
                .options = options,
                .deadline_us = deadline_us,
                .info = PACKET_INFO_INIT,
        };

        return take_answers(&h);
}

int link_open(struct link *ret, const char *address, const struct link_options *options) {
        uint64_t deadline_us = clock_now_us() + (options->timeout_us ?: LINK_TIMEOUT_US);
        _cleanup_(link_done) struct link link;
        int r;

        link_init(&link);
        r = link_start(&link, address, options, deadline_us);
        if (r >= 0)
                r = link_finish(&link, options, deadline_us);
        if (r < 0)
                return r;
        *ret = link;
        link_init(&link);
        return 0;
}

static bool is_same_memory(const struct link_memory *a, const struct link_memory *b) {
        return a->size == b->size && a->backing_size == b->backing_size && a->map_size == b->map_size &&
               a->device == b->device && a->inode == b->inode && strcmp(a->name, b->name) == 0;
}

/* Is every region of these memories that `link` has in `other` too? */
static bool has_regions(const struct link *link, const struct link *other, uint32_t held) {
        for (unsigned i = 0; i < link->n_regions; i++) {
                const struct link_region *a = &link->regions[i];
                bool found = false;

                if (a->size == 0 || !(held & 1u << a->memory))
                        continue;
                for (unsigned j = 0; j < other->n_regions && !found; j++) {
                        const struct link_region *b = &other->regions[j];

                        found = a->memory == b->memory && a->gpa == b->gpa && a->size == b->size && a->offset == b->offset;
                }
                if (!found)
                        return false;
        }
        return true;
}

bool link_carries_on(const struct link *link, const struct link *other, uint32_t held, uint32_t partial) {
        if (link->role != other->role || link->n_memories != other->n_memories)
                return false;
        for (unsigned i = 0; i < link->n_memories; i++)
                if (held & 1u << i && !is_same_memory(&link->memories[i], &other->memories[i]))
                        return false;
        return has_regions(link, other, held & ~partial) && has_regions(other, link, held);
}
