/* SPDX-License-Identifier: MIT */
/* A guest that writes nonsense into its rings: an I/O error where the answer's place is known, else its queue stops. */
#include <stdlib.h>
#include <string.h>

#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

#define NEXT VRING_DESC_F_NEXT
#define WRITABLE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* After queue 0 broke: its neighbour works, and so does it after a stop and a start. */
static void expect_recovers(struct machine *m) {
        struct queue *q = &m->queues[0];

        cr_assert_eq(blk_do(m, &m->queues[1], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        queue_stop_ask(m, q);
        (void) queue_stop_base(m, q);
        q->avail_index = *(uint16_t *) machine_at(m, q->avail + 2) = q->used_index;
        q->next_desc = 0;
        cr_assert(queue_start(m, q, q->used_index));
        cr_assert_eq(blk_do(m, q, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
}

/* Chains that leave no way to answer. Descriptors 0.. of the ring, and of a table at TABLE(0). */
static const struct {
        const char *reason;
        struct vring_desc ring[4], table[3];
} broken_chains[] = {
        { "a loop", { { HEADER(0), 16, NEXT, 1 }, { HEADER(1), 16, NEXT, 0 } }, {} },
        { "a loop", { { HEADER(0), 16, NEXT, 0 } }, {} },
        { "a descriptor index outside the table", { { HEADER(0), 16, NEXT, 256 } }, {} },
        { "a descriptor index outside the table", { { HEADER(0), 16, NEXT, 65535 } }, {} },
        { "a readable buffer after a writable one",
          { { DATA(0), 512, NEXT | WRITABLE, 1 }, { HEADER(0), 16, 0, 0 } },
          {} },
        { "wraps around", { { UINT64_MAX - 4, 16, NEXT, 1 }, { STATUS(0), 1, WRITABLE, 0 } }, {} },
        { "without a status byte", { { HEADER(0), 16, 0, 0 } }, {} },
        { "without a status byte", { { HEADER(0), 16, NEXT, 1 }, { STATUS(0), 0, WRITABLE, 0 } }, {} },
        { "status byte cannot be had", { { HEADER(0), 16, NEXT, 1 }, { MEMORY_SIZE, 1, WRITABLE, 0 } }, {} },
        { "status byte cannot be had", { { HEADER(0), 16, NEXT, 1 }, { 1ull << 63, 1, WRITABLE, 0 } }, {} },
        { "that has a successor", { { TABLE(0), 32, INDIRECT | NEXT, 1 } }, {} },
        { "of impossible size", { { TABLE(0), 0, INDIRECT, 0 } }, {} },
        { "of impossible size", { { TABLE(0), 40, INDIRECT, 0 } }, {} },
        { "of impossible size", { { TABLE(0), 1u << 31, INDIRECT, 0 } }, {} },
        { "at an impossible address", { { TABLE(0) + 1, 32, INDIRECT, 0 } }, {} },
        { "indirect table cannot be had", { { MEMORY_SIZE - 16, 32, INDIRECT, 0 } }, {} },
        { "an indirect table at an impossible address", { { 0 - 16ull, 32, INDIRECT, 0 } }, {} },
        { "inside an indirect table", { { TABLE(0), 16, INDIRECT, 0 } }, { { TABLE(0), 16, INDIRECT, 0 } } },
        { "a loop", { { TABLE(0), 32, INDIRECT, 0 } }, { { HEADER(0), 16, NEXT, 1 }, { HEADER(0), 16, NEXT, 0 } } },
        { "a descriptor index outside the table", { { TABLE(0), 32, INDIRECT, 0 } }, { { HEADER(0), 16, NEXT, 2 } } },
};

TEST(hostile_guest, chains_that_cannot_be_answered_stop_the_queue) {
        for (unsigned i = 0; i < ELEMENTS(broken_chains); i++) {
                struct machine m;

                MACHINE_START(&m); /* a new one each time: the log's lines about guests are limited */
                for (unsigned d = 0; d < ELEMENTS(broken_chains[i].ring); d++)
                        ring_set(&m, m.queues[0].desc, d, broken_chains[i].ring[d]);
                for (unsigned d = 0; d < ELEMENTS(broken_chains[i].table); d++)
                        ring_set(&m, TABLE(0), d, broken_chains[i].table[d]);
                queue_offer(&m, &m.queues[0], 0);
                queue_kick(&m.queues[0]);
                queue_wait_broken(&m, &m.queues[0]);
                cr_assert(machine_logged(&m, broken_chains[i].reason), "case %u: %s", i, broken_chains[i].reason);
                expect_recovers(&m);
                machine_stop(&m);
        }
}

TEST(hostile_guest, head_outside_the_ring_stops_the_queue) {
        struct machine m;

        MACHINE_START(&m);
        queue_offer(&m, &m.queues[0], 256);
        queue_kick(&m.queues[0]);
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert(machine_logged(&m, "a descriptor index outside the ring"));
        expect_recovers(&m);
        machine_stop(&m);
}

TEST(hostile_guest, available_index_that_runs_ahead_stops_the_queue) {
        struct machine m;

        MACHINE_START(&m);
        *(uint16_t *) machine_at(&m, m.queues[0].avail + 2) = 257;
        queue_kick(&m.queues[0]);
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert(machine_logged(&m, "ran ahead"));
        expect_recovers(&m);
        machine_stop(&m);
}

TEST(hostile_guest, indirect_table_must_have_been_negotiated) {
        struct machine m;

        MACHINE_START(&m, .features = BIT(VIRTIO_F_VERSION_1));
        blk_post_indirect(&m, &m.queues[0], 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        queue_kick(&m.queues[0]);
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert(machine_logged(&m, "not negotiated"));
        machine_stop(&m);
}

TEST(hostile_guest, answerable_nonsense_is_an_io_error) {
        static const struct {
                uint32_t type;
                uint64_t sector;
                struct buffer data;
        } requests[] = {
                { VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR, { DATA(0), 512, WRITABLE } },
                { VIRTIO_BLK_T_IN, UINT64_MAX, { DATA(0), 512, WRITABLE } },
                { VIRTIO_BLK_T_IN, UINT64_MAX / 512, { DATA(0), 4096, WRITABLE } },
                { VIRTIO_BLK_T_IN, 1ull << 55, { DATA(0), 512, WRITABLE } },
                { VIRTIO_BLK_T_OUT, DISK_SIZE / SECTOR, { DATA(0), 512, 0 } },
                { VIRTIO_BLK_T_IN, 0, { DATA(0), 511, WRITABLE } },
                { VIRTIO_BLK_T_OUT, 0, { DATA(0), 513, 0 } },
                { VIRTIO_BLK_T_IN, 0, { DATA(0), 0, WRITABLE } },
                { VIRTIO_BLK_T_IN, 0, { DATA(0), 512, 0 } }, /* no room to read into */
                { VIRTIO_BLK_T_IN, 0, { MEMORY_SIZE - 256, 512, WRITABLE } },
                { VIRTIO_BLK_T_OUT, 0, { MEMORY_SIZE, 512, 0 } },
                { VIRTIO_BLK_T_OUT, 0, { 1ull << 62, 512, 0 } },
                { VIRTIO_BLK_T_GET_ID, 0, { MEMORY_SIZE - 1, 20, WRITABLE } },
        };
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(requests); i++)
                cr_assert_eq(blk_do(&m, &m.queues[0], requests[i].type, requests[i].sector, &requests[i].data, 1),
                             VIRTIO_BLK_S_IOERR, "request %u", i);
        for (unsigned i = 0; i < DISK_SIZE; i++)
                cr_assert_eq((uint8_t) m.disk[i], pattern(77, i));
        cr_assert_eq(machine_statistic(&m, "failed"), ELEMENTS(requests));
        machine_stop(&m);
}

TEST(hostile_guest, short_header_is_an_io_error) {
        const struct buffer buffers[] = { { HEADER(0), 15, 0 }, { STATUS(0), 1, WRITABLE } };
        struct machine m;

        MACHINE_START(&m);
        queue_post(&m, &m.queues[0], 0, buffers, 2);
        queue_kick(&m.queues[0]);
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_IOERR);
        machine_stop(&m);
}

TEST(hostile_guest, more_segments_than_allowed_are_an_io_error) {
        struct buffer in[127];
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(in); i++)
                in[i] = (struct buffer) { DATA(i), 512, WRITABLE };
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, in, 127), VIRTIO_BLK_S_IOERR);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, in, 126), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

/* Many segments of 4 GiB less a sector each, all of them the same page: the sum must not wrap. */
TEST(hostile_guest, huge_lengths_do_not_wrap) {
        struct buffer in[126];
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(in); i++)
                in[i] = (struct buffer) { DATA(0), UINT32_MAX - 511, WRITABLE };
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, in, 126), VIRTIO_BLK_S_IOERR);
        machine_stop(&m);
}

/* ---- noise ---- */

static uint32_t noise(uint32_t *state) {
        *state ^= *state << 13;
        *state ^= *state >> 17;
        *state ^= *state << 5;
        return *state;
}

/* Mostly plausible numbers: pure noise would always fail at the first check. */
static struct vring_desc noise_descriptor(uint32_t *s) {
        static const uint64_t places[] = { HEADER(0), STATUS(0),         TABLE(0),      DATA(0),
                                           RINGS(0),  MEMORY_SIZE - 512, UINT64_MAX - 8 };
        static const uint32_t lengths[] = { 0, 1, 16, 32, 512, 4096, 1u << 20, UINT32_MAX };

        return (struct vring_desc) {
                .addr = places[noise(s) % ELEMENTS(places)] + (noise(s) % 4 ? 0 : noise(s) % 8192),
                .len = lengths[noise(s) % ELEMENTS(lengths)],
                .flags = (uint16_t) (noise(s) % 8 ? noise(s) % 4 : noise(s) % 8),
                .next = (uint16_t) (noise(s) % (noise(s) % 16 ? 16 : 300)),
        };
}

/* Five requests of three descriptors, of which some are then replaced: noise alone never gets past the first check. */
static void noise_round(struct machine *m, uint32_t *s) {
        struct virtio_blk_outhdr header = { .type = noise(s) % 3 ? noise(s) % 2 : noise(s) % 16,
                                            .sector = noise(s) % 10000 };
        struct queue *q = &m->queues[0];
        unsigned n_replaced = noise(s) % 4;

        for (unsigned i = 0; i < 16; i++) {
                const struct vring_desc usual[] = {
                        { HEADER(0), 16, NEXT, (uint16_t) (i + 1) },
                        { DATA(i), 512u << noise(s) % 6,
                          (uint16_t) (NEXT | (header.type == VIRTIO_BLK_T_IN ? WRITABLE : 0)), (uint16_t) (i + 1) },
                        { STATUS(0), 1, WRITABLE, 0 },
                };

                ring_set(m, q->desc, i, usual[i % 3]);
                ring_set(m, TABLE(0), i, usual[i % 3]);
        }
        for (unsigned i = 0; i < n_replaced; i++)
                ring_set(m, noise(s) % 2 ? q->desc : TABLE(0), noise(s) % 16, noise_descriptor(s));
        if (noise(s) % 2)
                ring_set(m, q->desc, 15, (struct vring_desc) { TABLE(0), 16 * (1 + noise(s) % 20), INDIRECT, 0 });
        memcpy(machine_at(m, HEADER(0)), &header, sizeof header);
        for (unsigned i = 0; i < 8; i++)
                queue_offer(m, q, (uint16_t) (noise(s) % 8 ? noise(s) % 6 * 3 : noise(s) % 16));
        queue_kick(q);
        queue_stop_ask(m, q);
        (void) queue_stop_base(m, q);
        /* The device may have been told to read into its own rings. */
        memset(machine_at(m, q->avail), 0, 4096);
        memset(machine_at(m, q->used), 0, 4096);
        q->avail_index = 0;
        cr_assert(queue_start(m, q, 0));
}

TEST(hostile_guest, noise_in_the_ring_harms_nobody_else) {
        uint32_t state = 2463534242u;
        struct queue *q;
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < 3000; i++)
                noise_round(&m, &state);
        cr_assert_gt(machine_statistic(&m, "reads"), 1000);
        cr_assert_gt(machine_statistic(&m, "writes"), 1000);
        cr_assert_gt(machine_statistic(&m, "failed"), 1000);
        /* A read of a megabyte into the first queue's rings goes over the second's too. */
        q = &m.queues[1];
        queue_stop_ask(&m, q);
        (void) queue_stop_base(&m, q);
        memset(machine_at(&m, q->avail), 0, 4096);
        memset(machine_at(&m, q->used), 0, 4096);
        cr_assert(queue_start(&m, q, 0));
        cr_assert_eq(blk_do(&m, q, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}
