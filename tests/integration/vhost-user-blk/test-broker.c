/* SPDX-License-Identifier: MIT */
/* The device with a real page broker: a machine is restored whose memory is all still in the snapshot. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"
#include "tests/lib/connect.h"
#include "tests/lib/gate.h"

#define WRITABLE VRING_DESC_F_WRITE

struct restored {
        struct machine machine;
        struct test_image snapshot;
        struct test_broker broker;
};

/* The machine's memory is an image in this process until restored_start(). */
static void restored_prepare(struct restored *r) {
        *r = (struct restored) { .snapshot.spec.n_pages = MEMORY_SIZE / TEST_PAGE };
        machine_prepare(&r->machine);
        (void) snprintf(r->snapshot.path, sizeof r->snapshot.path, "%s/snapshot", r->machine.dir);
        r->machine.image = calloc(1, MEMORY_SIZE);
        cr_assert(r->machine.image);
        for (uint64_t page = 0; page < MEMORY_SIZE; page += TEST_PAGE)
                machine_fill(&r->machine, page, 1, (unsigned) page); /* no page is zeros, or a hole */
        memset(r->machine.image + RINGS(0), 0, 0x20000);
}

/* Writes the snapshot. Afterwards memory is the broker's. */
static void restored_save(struct restored *r) {
        _cleanup_close_ int fd = open(r->snapshot.path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

        cr_assert(fd >= 0 && write(fd, r->machine.image, MEMORY_SIZE) == (ssize_t) MEMORY_SIZE);
        free(r->machine.image);
        r->machine.image = NULL;
        cr_assert(chmod(r->machine.dir, 0755) == 0);
}

static void restored_start(struct restored *r, const char *memory, unsigned base) {
        struct pb_region region;

        TEST_BROKER_START(&r->broker, "--fill=off", "--source-retries=1", memory);
        r->machine.client = test_connect(&r->broker, PB_ROLE_VMM);
        cr_assert_eq(pb_get_region(r->machine.client, 0, &region), 0);
        r->machine.memory_fd = region.fd;
        machine_run(&r->machine, &(struct machine_options) {
                                        .pagebroker = r->broker.address, .no_queues = true, .args = { "--reconnect=0" } });
        machine_connect(&r->machine, FEATURES);
        for (unsigned i = 0; i < 2; i++)
                cr_assert(queue_start(&r->machine, &r->machine.queues[i], i == 0 ? base : 0));
}

static void restored_stop(struct restored *r) {
        (void) unlink(r->snapshot.path);
        machine_stop(&r->machine);
        r->machine.client = test_disconnect(r->machine.client);
        test_broker_stop(&r->broker);
}

TEST(broker, restored_requests_are_served_from_memory_that_was_not_there) {
        const struct buffer out[] = { { DATA(0), 4096, 0 }, { DATA(1) + 1024, 1024, 0 } };
        const struct buffer in[] = { { DATA(10) + 512, 512, WRITABLE }, { DATA(12), 8192, WRITABLE } };
        struct restored r;
        struct machine *m = &r.machine;
        struct queue *q = &m->queues[0];

        restored_prepare(&r);
        for (unsigned i = 0; i < 30; i++) /* answered before the snapshot */
                blk_post(m, q, i, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        *(uint16_t *) machine_at(m, q->used + 2) = q->used_index = 30;
        machine_fill(m, DATA(0), 4096, 1);
        machine_fill(m, DATA(1), 4096, 2);
        machine_fill(m, DATA(10), 4096, 3);
        machine_fill(m, DATA(12), 8192, 4);
        blk_post_indirect(m, q, 40, VIRTIO_BLK_T_OUT, 0, out, 2);
        blk_post(m, q, 41, VIRTIO_BLK_T_IN, 20, in, 2);
        restored_save(&r);
        restored_start(&r, TEST_MEMORY("ram0", &r.snapshot), 30);

        for (unsigned i = 0; i < 2; i++)
                (void) queue_wait(m, q, NULL);
        cr_assert_eq(blk_status(m, 40), VIRTIO_BLK_S_OK);
        cr_assert_eq(blk_status(m, 41), VIRTIO_BLK_S_OK);
        for (unsigned i = 0; i < 4096; i++)
                cr_assert_eq((uint8_t) m->disk[i], pattern(1, i));
        for (unsigned i = 0; i < 1024; i++)
                cr_assert_eq((uint8_t) m->disk[4096 + i], pattern(2, 1024 + i));
        cr_assert(memcmp(machine_at(m, DATA(10) + 512), &m->disk[20 * SECTOR], 512) == 0);
        cr_assert(memcmp(machine_at(m, DATA(12)), &m->disk[21 * SECTOR], 4096) == 0);
        cr_assert(memcmp(machine_at(m, DATA(13)), &m->disk[29 * SECTOR], 4096) == 0);
        cr_assert(machine_holds(m, DATA(10), 512, 3));
        cr_assert_eq(*(uint8_t *) machine_at(m, DATA(10) + 1024), pattern(3, 1024));
        cr_assert_geq(machine_statistic(m, "waited"), 5);
        cr_assert_eq(machine_statistic(m, "requests"), 2);
        restored_stop(&r);
}

TEST(broker, thousand_reads_into_absent_memory) {
        struct restored r;
        struct machine *m = &r.machine;
        struct queue *q = &m->queues[0];

        restored_prepare(&r);
        restored_save(&r);
        restored_start(&r, TEST_MEMORY("ram0", &r.snapshot), 0);
        for (unsigned i = 0; i < 1000; i += 50) {
                for (unsigned j = i; j < i + 50; j++) /* an odd place in the page: its rest has to be fetched */
                        blk_post(m, q, j % 50, VIRTIO_BLK_T_IN, j, &(struct buffer) { DATA(j) + 100, 512, WRITABLE },
                                 1);
                queue_kick(q);
                for (unsigned j = i; j < i + 50; j++)
                        (void) queue_wait(m, q, NULL);
        }
        for (unsigned j = 0; j < 1000; j++) {
                uint64_t page = DATA(j);

                cr_assert(memcmp(machine_at(m, page + 100), &m->disk[j * SECTOR], 512) == 0, "read %u", j);
                cr_assert(machine_holds(m, page, 1, (unsigned) page), "read %u: its page", j);
        }
        restored_stop(&r);
}

/* ---- a source that does what the test says ---- */

TEST(broker, page_held_at_its_source_holds_up_its_own_request_only) {
        struct restored r;
        struct machine *m = &r.machine;
        struct test_gate gate;

        require_fuse();
        restored_prepare(&r);
        machine_fill(m, DATA(64), 512, 5);
        restored_save(&r);
        test_gate_start(&gate, &r.snapshot);
        test_gate_hold(&gate, DATA(64), TEST_PAGE);
        restored_start(&r, test_gate_memory("ram0", &gate, ""), 0);
        blk_post(m, &m->queues[0], 0, VIRTIO_BLK_T_OUT, 0, &(struct buffer) { DATA(64), 512, 0 }, 1);
        queue_kick(&m->queues[0]);
        test_gate_wait_held(&gate, DATA(64), TEST_PAGE, 1);
        for (unsigned slot = 1; slot < 20; slot++) {
                uint16_t head = blk_post(m, &m->queues[0], slot, VIRTIO_BLK_T_IN, slot,
                                         &(struct buffer) { DATA(slot), 512, WRITABLE }, 1);

                queue_kick(&m->queues[0]);
                cr_assert_eq(queue_wait(m, &m->queues[0], NULL), head);
                cr_assert_eq(blk_status(m, slot), VIRTIO_BLK_S_OK);
        }
        test_gate_release(&gate, DATA(64), TEST_PAGE);
        cr_assert_eq(queue_wait(m, &m->queues[0], NULL), 0);
        for (unsigned i = 0; i < 512; i++)
                cr_assert_eq((uint8_t) m->disk[i], pattern(5, i));
        restored_stop(&r);
        test_gate_stop(&gate);
}

TEST(broker, pages_that_the_disk_fills_are_not_fetched) {
        struct restored r;
        struct machine *m = &r.machine;
        struct test_gate gate;

        require_fuse();
        restored_prepare(&r);
        restored_save(&r);
        test_gate_start(&gate, &r.snapshot);
        restored_start(&r, test_gate_memory("ram0", &gate, ""), 0);
        cr_assert_eq(blk_do(m, &m->queues[0], VIRTIO_BLK_T_IN, 16,
                            &(struct buffer) { DATA(64), 8 * TEST_PAGE, WRITABLE }, 1),
                     VIRTIO_BLK_S_OK);
        cr_assert_eq(test_gate_count(&gate, DATA(64), 8 * TEST_PAGE), 0);
        for (unsigned i = 0; i < 8; i++)
                cr_assert(memcmp(machine_at(m, DATA(64 + i)), &m->disk[16 * SECTOR + i * TEST_PAGE], TEST_PAGE) == 0);
        restored_stop(&r);
        test_gate_stop(&gate);
}

TEST(broker, page_that_cannot_be_read_is_an_io_error) {
        struct restored r;
        struct machine *m = &r.machine;
        struct test_gate gate;

        require_fuse();
        restored_prepare(&r);
        restored_save(&r);
        test_gate_start(&gate, &r.snapshot);
        test_gate_fail(&gate, DATA(64), TEST_PAGE, EIO, TEST_GATE_ALWAYS);
        restored_start(&r, test_gate_memory("ram0", &gate, ""), 0);
        cr_assert_eq(blk_do(m, &m->queues[0], VIRTIO_BLK_T_OUT, 0, &(struct buffer) { DATA(64), 512, 0 }, 1),
                     VIRTIO_BLK_S_IOERR);
        cr_assert(machine_logged(m, "could not fetch a page"));
        cr_assert_eq(blk_do(m, &m->queues[0], VIRTIO_BLK_T_OUT, 0, &(struct buffer) { DATA(66), 512, 0 }, 1),
                     VIRTIO_BLK_S_OK);
        restored_stop(&r);
        test_gate_stop(&gate);
}

TEST(broker, memory_of_somebody_else_is_refused) {
        _cleanup_close_ int other = memfd_new("other", MEMORY_SIZE, 4096);
        struct vu_region region = { .size = MEMORY_SIZE, .user = VMM_USER_BASE };
        struct restored r;

        restored_prepare(&r);
        restored_save(&r);
        restored_start(&r, TEST_MEMORY("ram0", &r.snapshot), 0);
        cr_assert(!vmm_set_memory(r.machine.socket, &region, 1, &other));
        cr_assert(machine_logged(&r.machine, "start the VMM with the broker's memory"));
        restored_stop(&r);
}

TEST(broker, device_ends_with_its_broker) {
        struct restored r;

        restored_prepare(&r);
        restored_save(&r);
        restored_start(&r, TEST_MEMORY("ram0", &r.snapshot), 0);
        test_broker_kill(&r.broker);
        cr_assert(EVENTUALLY(machine_logged(&r.machine, "the page broker is gone")));
        (void) unlink(r.snapshot.path);
        cr_assert_eq(machine_wait_end(&r.machine), 1);
        (void) pb_disconnect(r.machine.client);
}
