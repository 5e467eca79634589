/* SPDX-License-Identifier: MIT */
/* Kicks and interrupts, and who asks for none. */
#include <string.h>
#include <sys/eventfd.h>

#include "tests/integration/vhost-user-blk/ring.h"

static const struct buffer in = { DATA(0), 512, VRING_DESC_F_WRITE };

/* The answer is seen in the ring: the interrupt, if any, comes before the answer to a message sent afterwards. */
static bool interrupts(struct machine *m, struct queue *queue) {
        cr_assert(EVENTUALLY(queue_has_answer(m, queue)));
        (void) vmm_get(m->socket, VU_GET_QUEUE_NUM);
        (void) vmm_get(m->socket, VU_GET_QUEUE_NUM);
        return eventfd_fired(queue->call);
}

static bool one_read_interrupts(struct machine *m, struct queue *queue) {
        bool fired;

        blk_post(m, queue, 0, VIRTIO_BLK_T_IN, 0, &in, 1);
        queue_kick(queue);
        fired = interrupts(m, queue);
        (void) queue_wait(m, queue, NULL);
        return fired;
}

TEST(notify, guest_that_wants_no_interrupt_gets_none) {
        struct queue *queue;
        struct machine m;

        MACHINE_START(&m);
        queue = &m.queues[0];
        (void) eventfd_fired(queue->call); /* of its being set */
        cr_assert(one_read_interrupts(&m, queue));
        *(uint16_t *) machine_at(&m, queue->avail) = VRING_AVAIL_F_NO_INTERRUPT;
        cr_assert(!one_read_interrupts(&m, queue));
        *(uint16_t *) machine_at(&m, queue->avail) = 0;
        cr_assert(one_read_interrupts(&m, queue));
        machine_stop(&m);
}

TEST(notify, event_index_decides_which_answer_interrupts) {
        struct queue *queue;
        uint16_t *used_event;
        struct machine m;

        MACHINE_START(&m, .features = FEATURES | BIT(VIRTIO_RING_F_EVENT_IDX));
        queue = &m.queues[0];
        (void) eventfd_fired(queue->call);
        used_event = machine_at(&m, queue->avail + 4 + 2u * queue->size);
        (void) one_read_interrupts(&m, queue); /* the first always may */
        *used_event = 3;
        cr_assert(!one_read_interrupts(&m, queue));
        cr_assert(!one_read_interrupts(&m, queue));
        cr_assert(one_read_interrupts(&m, queue)); /* used index 3 -> 4 */
        cr_assert(!one_read_interrupts(&m, queue));
        machine_stop(&m);
}

TEST(notify, event_index_tells_the_guest_when_to_kick) {
        struct queue *queue;
        uint16_t *avail_event, *used_event;
        struct machine m;

        MACHINE_START(&m, .features = FEATURES | BIT(VIRTIO_RING_F_EVENT_IDX));
        queue = &m.queues[0];
        avail_event = machine_at(&m, queue->used + 4 + 8u * queue->size);
        used_event = machine_at(&m, queue->avail + 4 + 2u * queue->size);
        for (uint16_t i = 0; i < 5; i++) {
                *used_event = i;
                cr_assert(EVENTUALLY(__atomic_load_n(avail_event, __ATOMIC_SEQ_CST) == i));
                cr_assert_eq(blk_do(&m, queue, VIRTIO_BLK_T_IN, 0, &in, 1), VIRTIO_BLK_S_OK);
        }
        machine_stop(&m);
}

TEST(notify, new_call_descriptor_is_signalled_once) {
        uint64_t index = 0;
        struct machine m;

        MACHINE_START(&m);
        (void) eventfd_fired(m.queues[0].call);
        cr_assert(vmm_call(m.socket, VU_SET_VRING_CALL, &index, sizeof index, &m.queues[0].call, 1));
        cr_assert(eventfd_fired(m.queues[0].call));
        cr_assert(!eventfd_fired(m.queues[0].call));
        machine_stop(&m);
}

TEST(notify, disabled_queue_answers_nothing_until_enabled) {
        struct machine m;

        MACHINE_START(&m);
        cr_assert(vmm_call_state(m.socket, VU_SET_VRING_ENABLE, 0, 0));
        blk_post(&m, &m.queues[0], 3, VIRTIO_BLK_T_IN, 0, &in, 1);
        queue_kick(&m.queues[0]);
        cr_assert_eq(blk_do(&m, &m.queues[1], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        cr_assert(!queue_has_answer(&m, &m.queues[0]));
        cr_assert(vmm_call_state(m.socket, VU_SET_VRING_ENABLE, 0, 1));
        (void) queue_wait(&m, &m.queues[0], NULL);
        machine_stop(&m);
}
