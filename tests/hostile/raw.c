/* SPDX-License-Identifier: MIT */
#include "tests/hostile/raw.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/packet.h"
#include "protocol/order.h"
#include "tests/lib/process.h"

int raw_socket(const char *address) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;

        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", address);
        if (fd < 0 || connect(fd, (struct sockaddr *) &addr, sizeof addr) == 0)
                return fd;
        r = -errno;
        (void) close(fd);
        return r;
}

struct pb_message_hello raw_hello(uint32_t role) {
        return (struct pb_message_hello) {
                .header = { .type = PB_MSG_HELLO, .size = sizeof(struct pb_message_hello), .serial = 1 },
                .version_min = PB_VERSION_MIN,
                .version_max = PB_VERSION_MAX,
                .role = role,
                .name = "hostile",
        };
}

static int wait_readable(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };

        return poll(&p, 1, TEST_PATIENCE_US / USEC_PER_MSEC) == 1 ? 0 : -ETIME;
}

/* One message. -EPIPE: the end. */
static ssize_t receive(int fd, void *buffer, size_t size, struct packet_info *info) {
        int r = wait_readable(fd);
        ssize_t n;

        if (r < 0)
                return r;
        n = packet_receive(fd, buffer, size, info, 0);
        /* Something that we sent was not read; what was sent to us before that can still be. */
        if (n == -ECONNRESET)
                n = packet_receive(fd, buffer, size, info, 0);
        return n == 0 || n == -ECONNRESET ? -EPIPE : n;
}

static void *map_shared(int fd, uint64_t size, int protection) {
        void *addr = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

        return addr == MAP_FAILED ? NULL : addr;
}

static int take_memory(struct raw *raw, const struct pb_message_memory *memory, struct packet_info *info,
                       bool writable) {
        unsigned i = raw->n_memories++;

        raw->size[i] = memory->size;
        if (info->n_fds < 2)
                return 0;
        raw->guest[i] = fd_take(&info->fds[0]);
        raw->map[i] = fd_take(&info->fds[1]);
        raw->memory[i] = map_shared(raw->guest[i], memory->size, writable ? PROT_READ | PROT_WRITE : PROT_READ);
        raw->header[i] = map_shared(raw->map[i], memory->map_size, PROT_READ);
        return raw->memory[i] && raw->header[i] ? 0 : -ENOMEM;
}

static int take_session(struct raw *raw, struct packet_info *info) {
        if (info->n_fds < 4)
                return -EPROTO;
        raw->ring_fd = fd_take(&info->fds[0]);
        raw->state_fd = fd_take(&info->fds[1]);
        raw->doorbell = fd_take(&info->fds[2]);
        raw->completion = fd_take(&info->fds[3]);
        raw->ring = map_shared(raw->ring_fd, sizeof(struct pb_ring), PROT_READ | PROT_WRITE);
        raw->state = map_shared(raw->state_fd, sizeof(struct pb_session_state), PROT_READ);
        return raw->ring && raw->state ? 0 : -ENOMEM;
}

static int take_message(struct raw *raw, const void *buffer, struct packet_info *info, uint32_t role, bool *ret_ready) {
        const struct pb_message_header *header = buffer;
        const struct pb_message_result *result = buffer;

        switch (header->type) {
        case PB_MSG_MEMORY:
                return raw->n_memories < RAW_MEMORIES_MAX ? take_memory(raw, buffer, info, role != PB_AS_DEVICE_RO)
                                                          : -E2BIG;
        case PB_MSG_SESSION:
                return take_session(raw, info);
        case PB_MSG_UFFD_DEVICE:
                raw->uffd_device = info->n_fds ? fd_take(&info->fds[0]) : -1;
                return 0;
        case PB_MSG_READY:
                *ret_ready = true;
                return 0;
        case PB_MSG_REFUSED:
                raw->error = result->error;
                memcpy(raw->text, result->text, sizeof raw->text);
                return result->error;
        default:
                return 0;
        }
}

int raw_shake_hands(struct raw *raw, int socket, const struct pb_message_hello *hello) {
        return raw_resume(raw, socket, hello, -1);
}

int raw_resume(struct raw *raw, int socket, const struct pb_message_hello *hello, int ring) {
        bool ready = false;
        int r;

        *raw = (struct raw) { .socket = socket,
                              .ring_fd = -1,
                              .state_fd = -1,
                              .doorbell = -1,
                              .completion = -1,
                              .uffd_device = -1,
                              .guest = { -1, -1, -1, -1 },
                              .map = { -1, -1, -1, -1 } };
        if (socket < 0)
                return socket;
        r = packet_send(socket, hello, sizeof *hello, &ring, ring >= 0, 0);
        while (r == 0 && !ready) {
                struct packet_info info = PACKET_INFO_INIT;
                _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX];
                ssize_t n = receive(socket, buffer, sizeof buffer, &info);

                r = n < 0 ? (int) n : take_message(raw, buffer, &info, hello->role, &ready);
                packet_info_done(&info);
        }
        if (r < 0) {
                char text[sizeof raw->text];

                memcpy(text, raw->text, sizeof text);
                raw_close(raw);
                memcpy(raw->text, text, sizeof text);
        }
        return r;
}

int raw_open(struct raw *raw, const char *address, uint32_t role) {
        struct pb_message_hello hello = raw_hello(role);

        return raw_shake_hands(raw, raw_socket(address), &hello);
}

void raw_close(struct raw *raw) {
        for (unsigned i = 0; i < RAW_MEMORIES_MAX; i++) {
                (void) fd_close(raw->guest[i]);
                (void) fd_close(raw->map[i]);
                if (raw->memory[i])
                        (void) munmap(raw->memory[i], raw->size[i]);
                if (raw->header[i])
                        (void) munmap((void *) raw->header[i], presence_map_size(raw->size[i] / PB_PAGE_BYTES));
        }
        if (raw->ring)
                (void) munmap(raw->ring, sizeof(struct pb_ring));
        if (raw->state)
                (void) munmap((void *) raw->state, sizeof(struct pb_session_state));
        (void) fd_close(raw->ring_fd);
        (void) fd_close(raw->state_fd);
        (void) fd_close(raw->doorbell);
        (void) fd_close(raw->completion);
        (void) fd_close(raw->uffd_device);
        (void) fd_close(raw->socket);
        *raw = (struct raw) { .socket = -1,
                              .ring_fd = -1,
                              .state_fd = -1,
                              .doorbell = -1,
                              .completion = -1,
                              .uffd_device = -1,
                              .guest = { -1, -1, -1, -1 },
                              .map = { -1, -1, -1, -1 } };
}

/* ---- ring ---- */

struct raw_push raw_want(uint64_t first_page, uint64_t n_pages) {
        return (struct raw_push) {
                .op = PB_SLOT_ENSURE,
                .n_ranges = 1,
                .ranges = { { .first_page = first_page, .n_pages = n_pages, .intent = PB_INTENT_READ } },
        };
}

void raw_write_slot(struct raw *raw, uint32_t slot, const struct raw_push *push) {
        struct pb_slot *shared = &raw->ring->slots[slot], head = { .head = 0 };

        head.op = (uint8_t) push->op;
        head.flags = (uint8_t) push->flags;
        head.n_ranges = (uint16_t) push->n_ranges;
        order_slot_store32(&shared->sequence, ++raw->sequence);
        order_slot_store32(&shared->head, head.head);
        order_slot_store64(&shared->padding, push->padding);
        for (unsigned i = 0; i < PB_SLOT_RANGES; i++) {
                order_slot_store64(&shared->ranges[i].first_page, push->ranges[i].first_page);
                order_slot_store64(&shared->ranges[i].n_pages, push->ranges[i].n_pages);
                order_slot_store32(&shared->ranges[i].memory, push->ranges[i].memory);
                order_slot_store32(&shared->ranges[i].intent, push->ranges[i].intent);
        }
}

void raw_set_ready(struct raw *raw, uint32_t slot) {
        (void) __atomic_fetch_or(&raw->ring->ready[slot / 64], 1ull << slot % 64, __ATOMIC_SEQ_CST);
}

void raw_set_summary(struct raw *raw, uint32_t slot) {
        (void) __atomic_fetch_or(&raw->ring->summary, 1u << slot / 64, __ATOMIC_SEQ_CST);
}

void raw_ring_doorbell(struct raw *raw) {
        (void) !write(raw->doorbell, &(uint64_t) { 1 }, sizeof(uint64_t));
}

void raw_submit(struct raw *raw, uint32_t slot, const struct raw_push *push) {
        raw_write_slot(raw, slot, push);
        raw_set_ready(raw, slot);
        raw_set_summary(raw, slot);
        raw_ring_doorbell(raw);
}

static bool is_final(const struct raw *raw, uint32_t slot, uint32_t sequence) {
        uint64_t outcome = order_outcome_load(&raw->state->outcome[slot]);

        return outcome_sequence(outcome) == sequence && outcome_result(outcome) != PB_OUTCOME_TAKEN;
}

int raw_wait_outcome(struct raw *raw, uint32_t slot) {
        uint32_t sequence = order_slot_load32(&raw->ring->slots[slot].sequence);

        if (!EVENTUALLY(is_final(raw, slot, sequence) || order_hint_load32(&raw->state->closed)))
                return -ETIME;
        return is_final(raw, slot, sequence) ? outcome_result(order_outcome_load(&raw->state->outcome[slot]))
                                             : -ECONNRESET;
}

bool raw_is_taken(const struct raw *raw, uint32_t slot) {
        return outcome_result(order_outcome_load(&raw->state->outcome[slot])) == PB_OUTCOME_TAKEN;
}

int raw_request(struct raw *raw, uint32_t slot, const struct raw_push *push) {
        raw_submit(raw, slot, push);
        return raw_wait_outcome(raw, slot);
}

bool raw_is_present(const struct raw *raw, uint64_t page) {
        const uint32_t *words =
                (const uint32_t *) (const void *) ((const char *) raw->header[0] + raw->header[0]->present_offset);

        return order_present_load(&words[page / 32]) & 1u << page % 32;
}

/* ---- calls ---- */

int raw_send(struct raw *raw, const void *message, size_t size, const int *fds, unsigned n_fds) {
        return packet_send(raw->socket, message, size, fds, n_fds, 0);
}

static int await_answer(struct raw *raw, void *buffer, size_t size) {
        struct packet_info info = PACKET_INFO_INIT;
        const struct pb_message_result *result = buffer;
        ssize_t n = receive(raw->socket, buffer, size, &info);

        packet_info_done(&info);
        if (n < 0)
                return (int) n;
        if (result->header.type != PB_MSG_RESULT && result->header.type != PB_MSG_REFUSED)
                return 0;
        memcpy(raw->text, result->text, sizeof raw->text);
        if (result->header.type == PB_MSG_REFUSED)
                raw->error = result->error;
        return result->header.type == PB_MSG_REFUSED ? -EPIPE : result->error;
}

int raw_call(struct raw *raw, const void *message, size_t size, int fd, uint64_t *ret_value) {
        _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX];
        int r = raw_send(raw, message, size, &fd, fd >= 0);

        if (r < 0)
                return r;
        r = await_answer(raw, buffer, sizeof buffer);
        if (r == 0 && ret_value)
                *ret_value = ((const struct pb_message_result *) (const void *) buffer)->value;
        return r;
}

int raw_attach(struct raw *raw, int uffd, uint32_t *ret_peer) {
        struct pb_message_attach_peer attach = {
                .header = { .type = PB_MSG_ATTACH_PEER, .size = sizeof attach, .serial = 7 },
                .name = "hostile",
        };
        uint64_t value = 0;
        int r = raw_call(raw, &attach, sizeof attach, uffd, &value);

        if (ret_peer)
                *ret_peer = (uint32_t) value;
        return r;
}

int raw_map_peer(struct raw *raw, uint32_t peer, const void *addr, uint64_t length, uint64_t offset) {
        struct pb_message_map_peer map = {
                .header = { .type = PB_MSG_MAP_PEER, .size = sizeof map, .serial = 8 },
                .peer = peer,
                .address = (uintptr_t) addr,
                .length = length,
                .offset = offset,
        };

        return raw_call(raw, &map, sizeof map, -1, NULL);
}

int raw_stats(struct raw *raw, struct pb_message_stats_reply *ret) {
        struct pb_message_plain ask = { .header = { .type = PB_MSG_STATS, .size = sizeof ask, .serial = 9 } };
        _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX];
        int r = raw_send(raw, &ask, sizeof ask, NULL, 0);

        if (r == 0)
                r = await_answer(raw, buffer, sizeof buffer);
        memcpy(ret, buffer, sizeof *ret);
        return r;
}

bool raw_is_hung_up(struct raw *raw) {
        for (;;) {
                _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX];
                const struct pb_message_result *result = (const void *) buffer;
                struct packet_info info = PACKET_INFO_INIT;
                ssize_t n = receive(raw->socket, buffer, sizeof buffer, &info);

                packet_info_done(&info);
                if (n < 0)
                        return n == -EPIPE;
                if (result->header.type != PB_MSG_REFUSED)
                        continue;
                raw->error = result->error;
                memcpy(raw->text, result->text, sizeof raw->text);
        }
}
