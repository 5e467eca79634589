/* SPDX-License-Identifier: MIT */
/* The driver's side of a queue. */
#pragma once

#include "tests/integration/vhost-user-blk/machine.h"

struct buffer {
        uint64_t gpa;
        uint32_t len;
        uint16_t flags; /* VRING_DESC_F_WRITE */
};

void queue_init(struct queue *queue, unsigned index);
void queue_close(struct queue *queue);

/* False: the device refuses. */
bool queue_start(struct machine *machine, struct queue *queue, unsigned base);
/* GET_VRING_BASE: the question, and the answer. */
void queue_stop_ask(struct machine *machine, struct queue *queue);
unsigned queue_stop_base(struct machine *machine, struct queue *queue);

/* Writes one descriptor, of the ring or of a table. */
void ring_set(struct machine *machine, uint64_t table, unsigned i, struct vring_desc desc);
/* Makes the chain at `head` available, without a kick. */
void queue_offer(struct machine *machine, struct queue *queue, uint16_t head);
/* A chain of these buffers; through an indirect table if `table` is not 0. Returns its head. */
uint16_t queue_post(struct machine *machine, struct queue *queue, uint64_t table, const struct buffer *buffers,
                    unsigned n);
void queue_kick(struct queue *queue);

/* Waits for the next answer. Returns its chain's head. */
uint16_t queue_wait(struct machine *machine, struct queue *queue, uint32_t *ret_len);
bool queue_has_answer(struct machine *machine, const struct queue *queue);
/* Waits until the device says by `err` that it has given the queue up. */
void queue_wait_broken(struct machine *machine, struct queue *queue);
bool eventfd_fired(int fd);

/* A request in `slot`: header, up to `n` data buffers, status. */
uint16_t blk_post(struct machine *machine, struct queue *queue, unsigned slot, uint32_t type, uint64_t sector,
                  const struct buffer *data, unsigned n);
uint16_t blk_post_indirect(struct machine *machine, struct queue *queue, unsigned slot, uint32_t type, uint64_t sector,
                           const struct buffer *data, unsigned n);
uint8_t blk_status(struct machine *machine, unsigned slot);
/* Posts, kicks, waits. Returns the status. */
uint8_t blk_do(struct machine *machine, struct queue *queue, uint32_t type, uint64_t sector, const struct buffer *data,
               unsigned n);
