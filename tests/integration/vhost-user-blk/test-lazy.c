/* SPDX-License-Identifier: MIT */
/* What a disk does when memory is not there yet. Absent pages are PROT_NONE in the device: see stand-in.h. */
#include <errno.h>
#include <string.h>

#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

#define WRITABLE VRING_DESC_F_WRITE

static void expect_range(const struct stand_in_submit *submit, unsigned i, uint64_t gpa, uint64_t len,
                         uint32_t intent) {
        cr_assert_lt(i, submit->n);
        cr_assert_eq(submit->ranges[i].gpa, gpa, "range %u begins at 0x%llx", i,
                     (unsigned long long) submit->ranges[i].gpa);
        cr_assert_eq(submit->ranges[i].len, len, "range %u has %llu bytes", i,
                     (unsigned long long) submit->ranges[i].len);
        cr_assert_eq(submit->ranges[i].intent, intent, "range %u: intent %u", i, submit->ranges[i].intent);
}

/* Both queues' rings are there; the test decides about the rest. */
static void start_with_rings(struct machine *m, const char *option) {
        machine_start(m, &(struct machine_options) { .absent = true, .args = { option } });
        for (unsigned i = 0; i < 2; i++) {
                struct stand_in_submit submit = pages_expect(m->pages);

                pages_complete(m->pages, &submit, 0);
        }
        m->serve = false;
}

static void check_everything_absent(const char *option) {
        const struct buffer out[] = { { DATA(0), 4096, 0 }, { DATA(1) + 1024, 1024, 0 } };
        const struct buffer in[] = { { DATA(10) + 512, 512, WRITABLE }, { DATA(12), 8192, WRITABLE } };
        const struct buffer id = { DATA(30), 20, WRITABLE };
        struct queue *q;
        struct machine m;

        machine_start(&m, &(struct machine_options) { .absent = true, .args = { "--serial=lazy", option } });
        q = &m.queues[0];
        machine_fill(&m, DATA(0), 4096, 1);
        machine_fill(&m, DATA(1), 4096, 2);
        machine_fill(&m, DATA(10), 4096, 3);
        machine_fill(&m, DATA(12), 8192, 4);
        blk_post_indirect(&m, q, 0, VIRTIO_BLK_T_OUT, 0, out, 2);
        blk_post(&m, q, 1, VIRTIO_BLK_T_IN, 20, in, 2);
        blk_post(&m, q, 2, VIRTIO_BLK_T_GET_ID, 0, &id, 1);
        queue_kick(q);
        for (unsigned i = 0; i < 3; i++)
                (void) queue_wait(&m, q, NULL);
        for (unsigned slot = 0; slot < 3; slot++)
                cr_assert_eq(blk_status(&m, slot), VIRTIO_BLK_S_OK, "slot %u", slot);
        for (unsigned i = 0; i < 4096; i++)
                cr_assert_eq((uint8_t) m.disk[i], pattern(1, i));
        for (unsigned i = 0; i < 1024; i++)
                cr_assert_eq((uint8_t) m.disk[4096 + i], pattern(2, 1024 + i));
        cr_assert(memcmp(machine_at(&m, DATA(10) + 512), &m.disk[20 * SECTOR], 512) == 0);
        cr_assert(memcmp(machine_at(&m, DATA(12)), &m.disk[21 * SECTOR], 4096) == 0);
        cr_assert(memcmp(machine_at(&m, DATA(13)), &m.disk[29 * SECTOR], 4096) == 0);
        /* What the disk did not fill of a page is the guest's. */
        cr_assert(machine_holds(&m, DATA(10), 512, 3));
        cr_assert_eq(*(uint8_t *) machine_at(&m, DATA(10) + 1024), pattern(3, 1024));
        cr_assert(memcmp(machine_at(&m, DATA(30)), "lazy", 5) == 0);
        cr_assert_gt(machine_statistic(&m, "waited"), 5);
        machine_stop(&m);
}

TEST(lazy, nothing_is_touched_before_it_is_there_with_io_uring) {
        require_io_uring();
        check_everything_absent(NULL);
}

TEST(lazy, nothing_is_touched_before_it_is_there_without_io_uring) {
        check_everything_absent("--no-uring");
}

/* Requests lay in the ring when the snapshot was taken; the kick for them came to another process. */
TEST(lazy, requests_in_a_restored_ring_are_served_without_a_kick) {
        const struct buffer in = { DATA(0), 4096, WRITABLE };
        struct machine m;

        MACHINE_START(&m, .absent = true, .no_queues = true);
        for (unsigned i = 0; i < 30; i++) /* answered in the life before */
                blk_post(&m, &m.queues[0], i, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        *(uint16_t *) machine_at(&m, m.queues[0].used + 2) = m.queues[0].used_index = 30;
        blk_post(&m, &m.queues[0], 31, VIRTIO_BLK_T_IN, 5, &in, 1);
        machine_connect(&m, FEATURES);
        cr_assert(queue_start(&m, &m.queues[0], 30));
        cr_assert_eq(queue_wait(&m, &m.queues[0], NULL), 60);
        cr_assert(memcmp(machine_at(&m, DATA(0)), &m.disk[5 * SECTOR], 4096) == 0);
        cr_assert_eq(machine_statistic(&m, "requests"), 1);
        machine_stop(&m);
}

TEST(lazy, rings_are_asked_for_once_and_in_one_go) {
        struct stand_in_submit submit;
        struct machine m;

        MACHINE_START(&m, .absent = true);
        m.serve = false;
        submit = pages_expect(m.pages);
        cr_assert_eq(submit.n, 3);
        expect_range(&submit, 0, m.queues[0].desc, 256 * 16, PB_READ);
        expect_range(&submit, 1, m.queues[0].avail, 4 + 2 * 256 + 2, PB_READ);
        expect_range(&submit, 2, m.queues[0].used, 4 + 8 * 256 + 2, PB_WRITE);
        pages_complete(m.pages, &submit, 0);
        submit = pages_expect(m.pages);
        pages_complete(m.pages, &submit, 0);
        for (unsigned i = 0; i < 3; i++) {
                m.serve = true;
                cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        }
        cr_assert_eq(m.pages->n_submits, 3); /* header and status byte were the third */
        machine_stop(&m);
}

TEST(lazy, read_buffers_are_overwritten_and_neighbours_joined) {
        const struct buffer in[] = { { DATA(0), 2048, WRITABLE },
                                     { DATA(0) + 2048, 2048, WRITABLE },
                                     { DATA(5), 512, WRITABLE } };
        struct stand_in_submit submit;
        struct machine m;

        start_with_rings(&m, NULL);
        machine_fill(&m, DATA(0), 4096, 9);
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_IN, 0, in, 3);
        queue_kick(&m.queues[0]);
        submit = pages_expect(m.pages);
        cr_assert_eq(submit.n, 2);
        expect_range(&submit, 0, HEADER(0), 16, PB_READ);
        expect_range(&submit, 1, STATUS(0), 1, PB_WRITE);
        pages_complete(m.pages, &submit, 0);
        submit = pages_expect(m.pages);
        cr_assert_eq(submit.n, 2);
        expect_range(&submit, 0, DATA(0), 4096, PB_OVERWRITE);
        expect_range(&submit, 1, DATA(5), 512, PB_OVERWRITE);
        pages_complete(m.pages, &submit, 0);
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert(machine_holds(&m, DATA(0), 4096, 77));
        machine_stop(&m);
}

TEST(lazy, written_data_is_asked_for_together_with_the_header) {
        const struct buffer out = { DATA(0), 8192, 0 };
        struct stand_in_submit submit;
        struct machine m;

        start_with_rings(&m, NULL);
        machine_fill(&m, DATA(0), 8192, 6);
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_OUT, 0, &out, 1);
        queue_kick(&m.queues[0]);
        submit = pages_expect(m.pages);
        cr_assert_eq(submit.n, 3);
        expect_range(&submit, 1, DATA(0), 8192, PB_READ);
        pages_complete(m.pages, &submit, 0);
        (void) queue_wait(&m, &m.queues[0], NULL);
        for (unsigned i = 0; i < 8192; i++)
                cr_assert_eq((uint8_t) m.disk[i], pattern(6, i));
        machine_stop(&m);
}

TEST(lazy, absent_page_holds_up_its_own_request_only) {
        struct stand_in_submit held;
        struct machine m;

        start_with_rings(&m, NULL);
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_IN, 0, &(struct buffer) { DATA(0), 512, WRITABLE }, 1);
        queue_kick(&m.queues[0]);
        held = pages_expect(m.pages);
        m.serve = true;
        for (unsigned slot = 1; slot < 40; slot++) {
                uint16_t head = blk_post(&m, &m.queues[slot % 2], slot, VIRTIO_BLK_T_IN, slot,
                                         &(struct buffer) { DATA(slot), 512, WRITABLE }, 1);

                queue_kick(&m.queues[slot % 2]);
                cr_assert_eq(queue_wait(&m, &m.queues[slot % 2], NULL), head);
                cr_assert_eq(blk_status(&m, slot), VIRTIO_BLK_S_OK);
        }
        cr_assert_eq(blk_status(&m, 0), STATUS_NONE);
        pages_complete(m.pages, &held, 0);
        cr_assert_eq(queue_wait(&m, &m.queues[0], NULL), 0);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(lazy, buffers_of_an_impossible_read_are_not_overwritten) {
        const struct buffer in = { DATA(0), 4096, WRITABLE };
        struct machine m;

        start_with_rings(&m, NULL);
        m.serve = true;
        machine_fill(&m, DATA(0), 4096, 9);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR - 7, &in, 1), VIRTIO_BLK_S_IOERR);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, UINT64_MAX - 3, &in, 1), VIRTIO_BLK_S_IOERR);
        cr_assert(!pages_is_present(m.pages, DATA(0)));
        machine_stop(&m);
}

TEST(lazy, waits_their_turn_when_the_library_takes_no_more) {
        struct machine m;

        MACHINE_START(&m, .absent = true, .limit = 2);
        for (unsigned i = 0; i < 80; i++)
                blk_post(&m, &m.queues[0], i, VIRTIO_BLK_T_IN, i, &(struct buffer) { DATA(i), 512, WRITABLE }, 1);
        queue_kick(&m.queues[0]);
        for (unsigned i = 0; i < 80; i++)
                (void) queue_wait(&m, &m.queues[0], NULL);
        for (unsigned i = 0; i < 80; i++) {
                cr_assert_eq(blk_status(&m, i), VIRTIO_BLK_S_OK);
                cr_assert(memcmp(machine_at(&m, DATA(i)), &m.disk[i * SECTOR], 512) == 0);
        }
        machine_stop(&m);
}

TEST(lazy, leaves_requests_in_the_ring_when_it_has_enough_under_way) {
        struct stand_in_submit submits[64];
        struct machine m;

        start_with_rings(&m, NULL);
        for (unsigned i = 0; i < 80; i++)
                blk_post(&m, &m.queues[0], i, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        queue_kick(&m.queues[0]);
        for (unsigned i = 0; i < ELEMENTS(submits); i++)
                submits[i] = pages_expect(m.pages);
        /* Two turns of its loop later nothing more has come. */
        (void) vmm_get(m.socket, VU_GET_QUEUE_NUM);
        (void) vmm_get(m.socket, VU_GET_QUEUE_NUM);
        cr_assert(!pages_pending(m.pages));
        m.serve = true;
        for (unsigned i = 0; i < ELEMENTS(submits); i++)
                pages_complete(m.pages, &submits[i], 0);
        for (unsigned i = 0; i < 80; i++)
                (void) queue_wait(&m, &m.queues[0], NULL);
        for (unsigned i = 0; i < 80; i++)
                cr_assert_eq(blk_status(&m, i), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

/* ---- pages that will not come ---- */

TEST(lazy, lost_data_page_is_an_io_error) {
        struct stand_in_submit submit;
        struct machine m;

        start_with_rings(&m, NULL);
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_OUT, 0, &(struct buffer) { DATA(0), 512, 0 }, 1);
        queue_kick(&m.queues[0]);
        submit = pages_expect(m.pages);
        pages_complete(m.pages, &submit, -EIO);
        submit = pages_expect(m.pages); /* now the place for the answer alone */
        cr_assert_eq(submit.n, 1);
        expect_range(&submit, 0, STATUS(0), 1, PB_WRITE);
        pages_complete(m.pages, &submit, 0);
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_IOERR);
        cr_assert(machine_logged(&m, "could not fetch a page"));
        cr_assert_eq((uint8_t) m.disk[1], pattern(77, 1));
        m.serve = true;
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(lazy, lost_status_page_stops_the_queue) {
        struct stand_in_submit submit;
        struct machine m;

        start_with_rings(&m, NULL);
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        queue_kick(&m.queues[0]);
        for (unsigned i = 0; i < 2; i++) {
                submit = pages_expect(m.pages);
                pages_complete(m.pages, &submit, -EIO);
        }
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert(machine_logged(&m, "queue 0 stops: the page of a status byte cannot be had"));
        m.serve = true;
        cr_assert_eq(blk_do(&m, &m.queues[1], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(lazy, lost_indirect_table_stops_the_queue) {
        struct stand_in_submit submit;
        struct machine m;

        start_with_rings(&m, NULL);
        blk_post_indirect(&m, &m.queues[0], 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        queue_kick(&m.queues[0]);
        submit = pages_expect(m.pages);
        expect_range(&submit, 0, TABLE(0), 32, PB_READ);
        pages_complete(m.pages, &submit, -EIO);
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert(machine_logged(&m, "indirect table"));
        machine_stop(&m);
}

TEST(lazy, lost_ring_breaks_its_queue_only) {
        struct stand_in_submit submit;
        struct machine m;

        MACHINE_START(&m, .absent = true);
        submit = pages_expect(m.pages);
        pages_complete(m.pages, &submit, -EIO);
        queue_wait_broken(&m, &m.queues[0]);
        cr_assert_eq(blk_do(&m, &m.queues[1], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(lazy, device_ends_with_its_broker) {
        struct machine m;

        start_with_rings(&m, NULL);
        pages_hang_up(m.pages);
        cr_assert(EVENTUALLY(machine_logged(&m, "the page broker is gone")));
        cr_assert(vmm_is_hung_up(m.socket));
        cr_assert_eq(machine_wait_end(&m), 1);
}
