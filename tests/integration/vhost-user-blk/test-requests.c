/* SPDX-License-Identifier: MIT */
/* What a disk does when all memory is there. */
#include <stdlib.h>
#include <string.h>

#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

#define WRITABLE VRING_DESC_F_WRITE

static void check_write_and_read(const char *option) {
        const struct buffer out[] = { { DATA(0), 8192, 0 }, { DATA(5) + 512, 512, 0 }, { DATA(9), 1536, 0 } };
        const struct buffer in[] = { { DATA(100), 1024, WRITABLE },
                                     { DATA(103) + 100, 9000, WRITABLE },
                                     { DATA(120), 216, WRITABLE } };
        struct machine m;
        uint32_t len;

        machine_start(&m, &(struct machine_options) { .args = { option } });
        machine_fill(&m, DATA(0), 8192, 1);
        machine_fill(&m, DATA(5) + 512, 512, 2);
        machine_fill(&m, DATA(9), 1536, 3);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_OUT, 100, out, 3), VIRTIO_BLK_S_OK);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        for (unsigned i = 0; i < 8192; i++)
                cr_assert_eq((uint8_t) m.disk[100 * SECTOR + i], pattern(1, i));
        for (unsigned i = 0; i < 512; i++)
                cr_assert_eq((uint8_t) m.disk[116 * SECTOR + i], pattern(2, i));
        cr_assert_eq((uint8_t) m.disk[100 * SECTOR - 1], pattern(77, 100 * SECTOR - 1));
        cr_assert_eq((uint8_t) m.disk[120 * SECTOR], pattern(77, 120 * SECTOR));

        blk_post(&m, &m.queues[1], 1, VIRTIO_BLK_T_IN, 100, in, 3);
        queue_kick(&m.queues[1]);
        (void) queue_wait(&m, &m.queues[1], &len);
        cr_assert_eq(blk_status(&m, 1), VIRTIO_BLK_S_OK);
        cr_assert_eq(len, 10240 + 1);
        cr_assert(memcmp(machine_at(&m, DATA(100)), &m.disk[100 * SECTOR], 1024) == 0);
        for (unsigned i = 0; i < 9000; i++)
                cr_assert_eq(*(char *) machine_at(&m, DATA(103) + 100 + i), m.disk[100 * SECTOR + 1024 + i]);
        cr_assert(memcmp(machine_at(&m, DATA(120)), &m.disk[100 * SECTOR + 10024], 216) == 0);
        cr_assert_eq(*(char *) machine_at(&m, DATA(103) + 99), 0);
        cr_assert_eq(*(char *) machine_at(&m, DATA(120) + 216), 0);
        cr_assert_eq(machine_statistic(&m, "writes"), 1);
        cr_assert_eq(machine_statistic(&m, "reads"), 1);
        cr_assert_eq(machine_statistic(&m, "flushes"), 1);
        cr_assert_eq(machine_statistic(&m, "waited"), 0);
        machine_stop(&m);
}

TEST(requests, write_and_read_scattered_buffers_with_io_uring) {
        require_io_uring();
        check_write_and_read(NULL);
}

TEST(requests, write_and_read_scattered_buffers_without_io_uring) {
        check_write_and_read("--no-uring");
}

TEST(requests, id_fills_twenty_bytes_and_no_more) {
        const struct buffer in = { DATA(0), 64, WRITABLE };
        struct machine m;

        MACHINE_START(&m, .args = { "--serial=web1-disk" });
        machine_fill(&m, DATA(0), 64, 1);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_GET_ID, 0, &in, 1), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(0)), "web1-disk\0\0\0\0\0\0\0\0\0\0\0", 20) == 0);
        for (unsigned i = 20; i < 64; i++)
                cr_assert_eq(*(uint8_t *) machine_at(&m, DATA(0) + i), pattern(1, i));
        machine_stop(&m);
}

TEST(requests, unknown_type_is_unsupported) {
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_DISCARD, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
        cr_assert_eq(blk_do(&m, &m.queues[0], 0xffffffff, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
        machine_stop(&m);
}

TEST(requests, readonly_disk_refuses_writes) {
        const struct buffer out = { DATA(0), 4096, 0 };
        const struct buffer in = { DATA(1), 4096, WRITABLE };
        struct machine m;

        MACHINE_START(&m, .args = { "--readonly" }, .features = FEATURES | BIT(VIRTIO_BLK_F_RO));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_OUT, 0, &out, 1), VIRTIO_BLK_S_IOERR);
        for (unsigned i = 0; i < 4096; i++)
                cr_assert_eq((uint8_t) m.disk[i], pattern(77, i));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, &in, 1), VIRTIO_BLK_S_OK);
        cr_assert(machine_holds(&m, DATA(1), 4096, 77));
        machine_stop(&m);
}

static struct vu_config get_config(struct machine *m, uint32_t offset, uint32_t size) {
        struct vu_config config = { .offset = offset, .size = size };

        cr_assert(vmm_send(m->socket, VU_GET_CONFIG, 0, &config, offsetof(struct vu_config, data) + size, NULL, 0));
        vmm_receive(m->socket, VU_GET_CONFIG, &config, offsetof(struct vu_config, data) + size);
        return config;
}

TEST(requests, configuration_space_describes_the_disk) {
        struct virtio_blk_config blk;
        struct vu_config config;
        struct machine m;

        MACHINE_START(&m);
        config = get_config(&m, 0, sizeof blk);
        memcpy(&blk, config.data, sizeof blk);
        cr_assert_eq(blk.capacity, DISK_SIZE / SECTOR);
        cr_assert_eq(blk.seg_max, 126);
        cr_assert_eq(blk.blk_size, 512);
        cr_assert_geq(blk.num_queues, 2);
        cr_assert_eq(vmm_get(m.socket, VU_GET_QUEUE_NUM), blk.num_queues);
        config = get_config(&m, 4, 4);
        cr_assert(memcmp(config.data, (char *) &blk + 4, 4) == 0);
        /* Beyond the end: an empty reply. */
        config = (struct vu_config) { .offset = 250, .size = 7 };
        cr_assert(vmm_send(m.socket, VU_GET_CONFIG, 0, &config, offsetof(struct vu_config, data) + 7, NULL, 0));
        vmm_receive(m.socket, VU_GET_CONFIG, NULL, 0);
        machine_stop(&m);
}

TEST(requests, indirect_tables_mean_the_same) {
        struct buffer in[126];
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(in); i++)
                in[i] = (struct buffer) { DATA(2 * i), 1024, WRITABLE };
        blk_post_indirect(&m, &m.queues[0], 0, VIRTIO_BLK_T_IN, 8, in, ELEMENTS(in));
        queue_kick(&m.queues[0]);
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_OK);
        for (unsigned i = 0; i < ELEMENTS(in); i++)
                cr_assert(memcmp(machine_at(&m, DATA(2 * i)), &m.disk[8 * SECTOR + i * 1024], 1024) == 0, "segment %u",
                          i);
        machine_stop(&m);
}

TEST(requests, chain_may_begin_directly_and_end_in_a_table) {
        struct queue *q;
        struct machine m;

        MACHINE_START(&m);
        q = &m.queues[0];
        memcpy(machine_at(&m, HEADER(0)), &(struct virtio_blk_outhdr) { .type = VIRTIO_BLK_T_IN, .sector = 3 }, 16);
        /* The header directly, data and status in the table. */
        ring_set(&m, q->desc, 10, (struct vring_desc) { HEADER(0), 16, VRING_DESC_F_NEXT, 11 });
        ring_set(&m, q->desc, 11, (struct vring_desc) { TABLE(0) + 16, 32, VRING_DESC_F_INDIRECT, 0 });
        ring_set(&m, TABLE(0) + 16, 0, (struct vring_desc) { DATA(1), 512, VRING_DESC_F_NEXT | WRITABLE, 1 });
        ring_set(&m, TABLE(0) + 16, 1, (struct vring_desc) { STATUS(0), 1, WRITABLE, 0 });
        *(uint8_t *) machine_at(&m, STATUS(0)) = STATUS_NONE;
        queue_offer(&m, q, 10);
        queue_kick(q);
        cr_assert_eq(queue_wait(&m, q, NULL), 10);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(1)), &m.disk[3 * SECTOR], 512) == 0);
        machine_stop(&m);
}

/* The specification leaves the split of a request into descriptors to the driver. */
TEST(requests, header_and_status_may_lie_anyhow) {
        struct buffer buffers[] = {
                { HEADER(0), 7, 0 },
                { HEADER(1), 9, 0 },
                { DATA(0), 512, WRITABLE },
                { DATA(1), 513, WRITABLE }, /* its last byte is the status */
        };
        struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN, .sector = 40 };
        struct machine m;

        MACHINE_START(&m);
        memcpy(machine_at(&m, HEADER(0)), &header, 7);
        memcpy(machine_at(&m, HEADER(1)), (char *) &header + 7, 9);
        *(uint8_t *) machine_at(&m, DATA(1) + 512) = STATUS_NONE;
        queue_post(&m, &m.queues[0], 0, buffers, ELEMENTS(buffers));
        queue_kick(&m.queues[0]);
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert_eq(*(uint8_t *) machine_at(&m, DATA(1) + 512), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(0)), &m.disk[40 * SECTOR], 512) == 0);
        cr_assert(memcmp(machine_at(&m, DATA(1)), &m.disk[41 * SECTOR], 512) == 0);
        machine_stop(&m);
}

TEST(requests, many_at_once_are_each_answered_once) {
        bool answered[84] = { false };
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(answered); i++)
                blk_post(&m, &m.queues[0], i, VIRTIO_BLK_T_IN, 7 * i, &(struct buffer) { DATA(i), 512, WRITABLE }, 1);
        queue_kick(&m.queues[0]);
        for (unsigned i = 0; i < ELEMENTS(answered); i++) {
                unsigned slot = queue_wait(&m, &m.queues[0], NULL) / 3u;

                cr_assert(slot < ELEMENTS(answered) && !answered[slot]);
                answered[slot] = true;
                cr_assert_eq(blk_status(&m, slot), VIRTIO_BLK_S_OK);
                cr_assert(memcmp(machine_at(&m, DATA(slot)), &m.disk[7 * slot * SECTOR], 512) == 0);
        }
        cr_assert(!queue_has_answer(&m, &m.queues[0]));
        machine_stop(&m);
}

TEST(requests, ring_wraps_around) {
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < 600; i++)
                cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, i, &(struct buffer) { DATA(0), 512, WRITABLE },
                                    1),
                             VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(0)), &m.disk[599 * SECTOR], 512) == 0);
        machine_stop(&m);
}

TEST(requests, file_that_became_shorter_is_an_error) {
        const struct buffer in = { DATA(0), 4096, WRITABLE };
        struct machine m;

        MACHINE_START(&m);
        cr_assert(truncate(m.disk_path, 10 * SECTOR) == 0);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 8, &in, 1), VIRTIO_BLK_S_IOERR);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 2, &in, 1), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}
