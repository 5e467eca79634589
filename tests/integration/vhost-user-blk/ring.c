/* SPDX-License-Identifier: MIT */
#include "tests/integration/vhost-user-blk/ring.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/cleanup.h"
#include "common/macro.h"

#define PATIENCE_MS ((int) (TEST_PATIENCE_US / USEC_PER_MSEC))
#define QUEUE_SIZE 256u /* its three rings are three pages */

void queue_init(struct queue *queue, unsigned index) {
        *queue = (struct queue) {
                .index = index,
                .size = QUEUE_SIZE,
                .desc = RINGS(index),
                .avail = RINGS(index) + 0x1000,
                .used = RINGS(index) + 0x2000,
                .kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                .call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                .err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        };
        cr_assert(queue->kick >= 0 && queue->call >= 0 && queue->err >= 0);
}

void queue_close(struct queue *queue) {
        queue->kick = fd_close(queue->kick);
        queue->call = fd_close(queue->call);
        queue->err = fd_close(queue->err);
}

bool queue_start(struct machine *machine, struct queue *queue, unsigned base) {
        struct vhost_vring_addr addr = {
                .index = queue->index,
                .desc_user_addr = VMM_USER_BASE + queue->desc,
                .avail_user_addr = VMM_USER_BASE + queue->avail,
                .used_user_addr = VMM_USER_BASE + queue->used,
        };
        uint64_t index = queue->index;
        int s = machine->socket;

        return vmm_call_state(s, VU_SET_VRING_NUM, queue->index, queue->size) &&
               vmm_call_state(s, VU_SET_VRING_BASE, queue->index, base) &&
               vmm_call(s, VU_SET_VRING_ADDR, &addr, sizeof addr, NULL, 0) &&
               vmm_call(s, VU_SET_VRING_CALL, &index, sizeof index, &queue->call, 1) &&
               vmm_call(s, VU_SET_VRING_ERR, &index, sizeof index, &queue->err, 1) &&
               vmm_call(s, VU_SET_VRING_KICK, &index, sizeof index, &queue->kick, 1) &&
               vmm_call_state(s, VU_SET_VRING_ENABLE, queue->index, 1);
}

void queue_stop_ask(struct machine *machine, struct queue *queue) {
        struct vhost_vring_state state = { .index = queue->index };

        cr_assert(vmm_send(machine->socket, VU_GET_VRING_BASE, 0, &state, sizeof state, NULL, 0));
}

unsigned queue_stop_base(struct machine *machine, struct queue *queue) {
        struct vhost_vring_state state;

        vmm_receive(machine->socket, VU_GET_VRING_BASE, &state, sizeof state);
        cr_assert_eq(state.index, queue->index);
        return state.num;
}

void ring_set(struct machine *machine, uint64_t table, unsigned i, struct vring_desc desc) {
        memcpy(machine_at(machine, table + i * sizeof desc), &desc, sizeof desc);
}

void queue_offer(struct machine *machine, struct queue *queue, uint16_t head) {
        uint64_t entry = queue->avail + offsetof(struct vring_avail, ring) + 2u * (queue->avail_index % queue->size);
        uint16_t *index = machine_at(machine, queue->avail + offsetof(struct vring_avail, idx));

        memcpy(machine_at(machine, entry), &head, sizeof head);
        __atomic_store_n(index, ++queue->avail_index, __ATOMIC_SEQ_CST);
}

uint16_t queue_post(struct machine *machine, struct queue *queue, uint64_t table, const struct buffer *buffers,
                    unsigned n) {
        uint64_t where = table ?: queue->desc;
        uint16_t first = table ? 0 : queue->next_desc, head = queue->next_desc;

        queue->next_desc = (uint16_t) ((queue->next_desc + (table ? 1 : n)) % queue->size);
        for (unsigned i = 0; i < n; i++) {
                unsigned at = (first + i) % (table ? n : queue->size);
                struct vring_desc desc = {
                        .addr = buffers[i].gpa,
                        .len = buffers[i].len,
                        .flags = (uint16_t) (buffers[i].flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0)),
                        .next = (uint16_t) ((at + 1) % (table ? n : queue->size)),
                };

                ring_set(machine, where, at, desc);
        }
        if (table)
                ring_set(machine, queue->desc, head,
                         (struct vring_desc) { .addr = table, .len = n * 16, .flags = VRING_DESC_F_INDIRECT });
        queue_offer(machine, queue, head);
        return head;
}

void queue_kick(struct queue *queue) {
        cr_assert(eventfd_write(queue->kick, 1) == 0);
}

bool queue_has_answer(struct machine *machine, const struct queue *queue) {
        uint16_t *index = machine_at(machine, queue->used + offsetof(struct vring_used, idx));

        return __atomic_load_n(index, __ATOMIC_SEQ_CST) != queue->used_index;
}

bool eventfd_fired(int fd) {
        eventfd_t count;

        return eventfd_read(fd, &count) == 0;
}

/* Until something happens: one of the queue's descriptors, the device's end, pages asked for. */
static void machine_wait_event(struct machine *machine, int fd) {
        struct pollfd p[] = {
                { .fd = fd, .events = POLLIN },
                { .fd = machine->pidfd, .events = POLLIN },
                { .fd = machine->serve ? machine->pages->socket : -1, .events = POLLIN },
        };

        cr_assert(poll(p, ELEMENTS(p), PATIENCE_MS) > 0, "nothing happens");
        cr_assert(p[1].revents == 0, "the device has ended");
        if (p[2].revents) {
                struct stand_in_submit submit = pages_expect(machine->pages);

                pages_complete(machine->pages, &submit, 0);
        }
        (void) eventfd_fired(fd);
}

uint16_t queue_wait(struct machine *machine, struct queue *queue, uint32_t *ret_len) {
        struct vring_used_elem elem;

        while (!queue_has_answer(machine, queue))
                machine_wait_event(machine, queue->call);
        memcpy(&elem,
               machine_at(machine,
                          queue->used + offsetof(struct vring_used, ring) + 8u * (queue->used_index % queue->size)),
               sizeof elem);
        queue->used_index++;
        if (ret_len)
                *ret_len = elem.len;
        return (uint16_t) elem.id;
}

void queue_wait_broken(struct machine *machine, struct queue *queue) {
        while (!eventfd_fired(queue->err)) {
                struct pollfd p[] = {
                        { .fd = queue->err, .events = POLLIN },
                        { .fd = machine->pidfd, .events = POLLIN },
                };

                cr_assert(poll(p, ELEMENTS(p), PATIENCE_MS) > 0, "the queue goes on");
                cr_assert(p[1].revents == 0, "the device has ended");
        }
}

static unsigned blk_buffers(struct machine *machine, unsigned slot, uint32_t type, uint64_t sector,
                            const struct buffer *data, unsigned n, struct buffer *ret) {
        struct virtio_blk_outhdr header = { .type = type, .sector = sector };

        memcpy(machine_at(machine, HEADER(slot)), &header, sizeof header);
        *(uint8_t *) machine_at(machine, STATUS(slot)) = STATUS_NONE;
        ret[0] = (struct buffer) { .gpa = HEADER(slot), .len = sizeof header };
        if (n > 0)
                memcpy(&ret[1], data, n * sizeof *data);
        ret[n + 1] = (struct buffer) { .gpa = STATUS(slot), .len = 1, .flags = VRING_DESC_F_WRITE };
        return n + 2;
}

uint16_t blk_post(struct machine *machine, struct queue *queue, unsigned slot, uint32_t type, uint64_t sector,
                  const struct buffer *data, unsigned n) {
        struct buffer buffers[QUEUE_SIZE];

        return queue_post(machine, queue, 0, buffers, blk_buffers(machine, slot, type, sector, data, n, buffers));
}

uint16_t blk_post_indirect(struct machine *machine, struct queue *queue, unsigned slot, uint32_t type, uint64_t sector,
                           const struct buffer *data, unsigned n) {
        struct buffer buffers[QUEUE_SIZE];

        return queue_post(machine, queue, TABLE(slot), buffers,
                          blk_buffers(machine, slot, type, sector, data, n, buffers));
}

uint8_t blk_status(struct machine *machine, unsigned slot) {
        return *(uint8_t *) machine_at(machine, STATUS(slot));
}

uint8_t blk_do(struct machine *machine, struct queue *queue, uint32_t type, uint64_t sector, const struct buffer *data,
               unsigned n) {
        uint16_t head = blk_post(machine, queue, 0, type, sector, data, n);

        queue_kick(queue);
        cr_assert_eq(queue_wait(machine, queue, NULL), head);
        return blk_status(machine, 0);
}
