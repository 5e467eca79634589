/* SPDX-License-Identifier: MIT */
/* The control socket of the fake broker. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/packet.h"
#include "tests/lib/fake-broker.h"

static bool send_packet(struct fake *fake, struct fake_packet *packet) {
        struct fake_packet honest = *packet;
        int r = 0;

        if (fake->options.tamper)
                fake->options.tamper(fake, packet);
        if (packet->size > 0)
                r = packet_send(fake->socket, packet->bytes, packet->size, packet->fds, packet->n_fds, 0);
        for (unsigned i = 0; i < packet->n_fds; i++)
                if (i >= honest.n_fds || packet->fds[i] != honest.fds[i])
                        (void) fd_close(packet->fds[i]);
        return r >= 0;
}

#define PACKET(kind, struct_type)                                                     \
        (struct fake_packet) {                                                        \
                .type = (kind), .size = sizeof(struct_type),                          \
                .header = { .type = (kind), .size = sizeof(struct_type) }             \
        }

static bool send_welcome(struct fake *fake, const struct pb_message_hello *hello) {
        struct fake_packet packet = PACKET(PB_MSG_WELCOME, struct pb_message_welcome);

        packet.welcome.version = 1;
        packet.welcome.role = hello->role;
        packet.welcome.epoch = fake->epoch;
        packet.welcome.session_id = 7;
        packet.welcome.n_memories = fake->n_memories;
        packet.welcome.n_regions = fake->options.n_regions;
        (void) snprintf(packet.welcome.name, sizeof packet.welcome.name, "fake");
        return send_packet(fake, &packet);
}

static bool send_memory(struct fake *fake, unsigned index, uint32_t role) {
        struct fake_packet packet = PACKET(PB_MSG_MEMORY, struct pb_message_memory);
        const struct fake_memory *memory = &fake->memories[index];
        struct stat st;

        if (fstat(memory->fd, &st) < 0)
                return false;
        packet.index = packet.memory.index = index;
        packet.memory.size = memory->n_pages * PB_PAGE_BYTES;
        packet.memory.backing_size = fake->options.backing_size;
        packet.memory.map_size = presence_map_size(memory->n_pages);
        packet.memory.device = st.st_dev;
        packet.memory.inode = st.st_ino;
        (void) snprintf(packet.memory.name, sizeof packet.memory.name, "ram%u", index);
        if (role != PB_AS_OBSERVER) {
                packet.n_fds = 2;
                packet.fds[0] = memory->fd;
                packet.fds[1] = memory->map_fd;
        }
        return send_packet(fake, &packet);
}

static bool send_region(struct fake *fake, unsigned index) {
        struct fake_packet packet = PACKET(PB_MSG_REGION, struct pb_message_region);
        struct pb_message_header header = packet.header;

        packet.region = fake->options.regions[index];
        packet.region.header = header;
        packet.index = packet.region.index = index;
        return send_packet(fake, &packet);
}

/* The ring that came is taken for ours; tests compare. */
static bool send_session(struct fake *fake, bool resumed) {
        struct fake_packet packet = PACKET(PB_MSG_SESSION, struct pb_message_session);

        if (resumed) {
                memset(fake->ring->ready, 0, sizeof fake->ring->ready);
                fake->ring->summary = 0;
                packet.session.flags = PB_SESSION_RESUMED;
                __atomic_store_n(&fake->has_ring, true, __ATOMIC_SEQ_CST);
        }
        packet.session.ring_size = sizeof(struct pb_ring);
        packet.session.state_size = sizeof(struct pb_session_state);
        packet.session.n_slots = PB_RING_SLOTS;
        packet.n_fds = 4;
        packet.fds[0] = fake->ring_fd;
        packet.fds[1] = fake->state_fd;
        packet.fds[2] = fake->doorbell;
        packet.fds[3] = fake->client_completion;
        return send_packet(fake, &packet);
}

static bool send_device(struct fake *fake) {
        struct fake_packet packet = PACKET(PB_MSG_UFFD_DEVICE, struct pb_message_plain);
        int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        bool ok;

        if (fd < 0)
                return true; /* not every broker has one */
        packet.n_fds = 1;
        packet.fds[0] = fd;
        ok = send_packet(fake, &packet);
        (void) fd_close(fd);
        return ok;
}

static bool shake_hands(struct fake *fake, const struct pb_message_hello *hello, bool has_ring) {
        struct fake_packet ready = PACKET(PB_MSG_READY, struct pb_message_plain);
        bool ok = send_welcome(fake, hello);

        for (unsigned i = 0; ok && i < fake->n_memories; i++)
                ok = send_memory(fake, i, hello->role);
        for (unsigned i = 0; ok && i < fake->options.n_regions; i++)
                ok = send_region(fake, i);
        if (ok && hello->role != PB_AS_OBSERVER && !(hello->flags & PB_HELLO_NO_SESSION))
                ok = send_session(fake, hello->epoch != 0 && has_ring);
        /* The one end of the completion socket that is left here must not outlive the client's. */
        fake->client_completion = fd_close(fake->client_completion);
        if (ok && fake->options.uffd_device)
                ok = send_device(fake);
        return ok && send_packet(fake, &ready);
}

static bool answer_call(struct fake *fake, const struct fake_call *call) {
        struct fake_packet answer = PACKET(PB_MSG_RESULT, struct pb_message_result);
        bool ok;

        if (call->header.type == PB_MSG_STATS)
                answer = PACKET(PB_MSG_STATS_REPLY, struct pb_message_stats_reply);
        answer.header.serial = call->header.serial;
        if (fake->options.on_call)
                fake->options.on_call(fake, call, &answer);
        ok = send_packet(fake, &answer);
        for (unsigned i = 0; i < answer.n_fds; i++)
                (void) fd_close(answer.fds[i]);
        return ok;
}

/* False at the end. */
static bool handle_packet(struct fake *fake) {
        struct packet_info info = PACKET_INFO_INIT;
        struct fake_call call = { .fd = -1 };
        int on = 1;
        ssize_t n;

        /* Asked for as late as can be: HELLO carries credentials only if the sender has asked, too. */
        (void) setsockopt(fake->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        n = packet_receive(fake->socket, call.bytes, sizeof call.bytes, &info, 0);
        if (n <= 0)
                return false;
        if (info.n_fds > 0)
                call.fd = fd_take(&info.fds[0]);
        if (info.has_credentials)
                call.sender = info.credentials.pid;
        packet_info_done(&info);
        (void) pthread_mutex_lock(&fake->lock);
        if (fake->n_calls < FAKE_CALLS_MAX)
                fake->calls[fake->n_calls] = call;
        else
                (void) fd_close(call.fd);
        fake->n_calls++;
        (void) pthread_mutex_unlock(&fake->lock);
        return call.header.type == PB_MSG_HELLO ? shake_hands(fake, &call.hello, call.fd >= 0) : answer_call(fake, &call);
}

void fake_listen(struct fake *fake) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        (void) snprintf(fake->address, sizeof fake->address, "%s/fake-%d", getenv("TMPDIR") ?: "/tmp", getpid());
        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", fake->address);
        fake->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (bind(fake->listener, (struct sockaddr *) &address, sizeof address) < 0 || listen(fake->listener, 1) < 0)
                abort();
}

static void accept_client(struct fake *fake) {
        int fd = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
                abort();
        (void) fd_close(fake->socket);
        fake->socket = fd;
}

static void *control_thread(void *userdata) {
        struct fake *fake = userdata;
        struct pollfd pollfds[2] = {
                { .fd = fake->listener >= 0 ? fake->listener : fake->socket, .events = POLLIN },
                { .fd = fake->stop, .events = POLLIN },
        };

        for (;;) {
                if (poll(pollfds, 2, -1) < 0 && errno != EINTR)
                        return NULL;
                if (pollfds[1].revents)
                        return NULL;
                if (pollfds[0].revents && pollfds[0].fd == fake->listener) {
                        accept_client(fake);
                        pollfds[0].fd = fake->socket;
                } else if (pollfds[0].revents && !handle_packet(fake))
                        return NULL;
        }
}

void fake_start(struct fake *fake) {
        if (pthread_create(&fake->control, NULL, control_thread, fake) != 0)
                abort();
        fake->has_control = true;
}
