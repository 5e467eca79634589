/* SPDX-License-Identifier: MIT */
/* Stop and start of queues (a VMM does so to save, to restore and to migrate a machine), and the dirty log. */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

#define WRITABLE VRING_DESC_F_WRITE

static bool socket_is_readable(int fd) {
        return poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 0) == 1;
}

TEST(stop, waits_for_requests_under_way) {
        struct stand_in_submit submit;
        struct queue *q;
        struct machine m;

        MACHINE_START(&m, .absent = true, .args = { "--verbose" });
        q = &m.queues[0];
        for (unsigned i = 0; i < 2; i++) {
                submit = pages_expect(m.pages);
                pages_complete(m.pages, &submit, 0);
        }
        m.serve = false;
        blk_post(&m, q, 0, VIRTIO_BLK_T_IN, 3, &(struct buffer) { DATA(0), 4096, WRITABLE }, 1);
        queue_kick(q);
        submit = pages_expect(m.pages);
        queue_stop_ask(&m, q);
        cr_assert(EVENTUALLY(machine_logged(&m, "queue 0: running -> draining")));
        pages_complete(m.pages, &submit, 0);
        submit = pages_expect(m.pages);
        cr_assert(!socket_is_readable(m.socket));
        cr_assert(!queue_has_answer(&m, q));
        pages_complete(m.pages, &submit, 0);
        cr_assert_eq(queue_stop_base(&m, q), 1);
        /* At the reply everything is in place already: nothing has to be waited for. */
        cr_assert(queue_has_answer(&m, q));
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(0)), &m.disk[3 * SECTOR], 4096) == 0);
        machine_stop(&m);
}

TEST(stop, base_of_one_life_starts_the_next) {
        struct queue *q;
        unsigned base;
        struct machine m;

        MACHINE_START(&m);
        q = &m.queues[0];
        for (unsigned i = 0; i < 5; i++)
                cr_assert_eq(blk_do(&m, q, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        queue_stop_ask(&m, q);
        base = queue_stop_base(&m, q);
        cr_assert_eq(base, 5);
        /* What the guest offers while its machine is stopped, with or without a kick, is taken after the start. */
        blk_post(&m, q, 1, VIRTIO_BLK_T_IN, 9, &(struct buffer) { DATA(0), 512, WRITABLE }, 1);
        queue_kick(q);
        cr_assert_eq(blk_do(&m, &m.queues[1], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        cr_assert(!queue_has_answer(&m, q));
        cr_assert(queue_start(&m, q, base));
        (void) queue_wait(&m, q, NULL);
        cr_assert_eq(blk_status(&m, 1), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, DATA(0)), &m.disk[9 * SECTOR], 512) == 0);
        machine_stop(&m);
}

TEST(stop, a_thousand_times) {
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < 1000; i++) {
                unsigned base;

                blk_post(&m, &m.queues[0], i % 2, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
                queue_kick(&m.queues[0]);
                queue_stop_ask(&m, &m.queues[0]);
                base = queue_stop_base(&m, &m.queues[0]);
                cr_assert(queue_start(&m, &m.queues[0], base));
                (void) queue_wait(&m, &m.queues[0], NULL);
                cr_assert_eq(blk_status(&m, i % 2), VIRTIO_BLK_S_OK);
                cr_assert(!queue_has_answer(&m, &m.queues[0]));
        }
        cr_assert_eq(machine_statistic(&m, "flushes"), 1000);
        machine_stop(&m);
}

TEST(stop, running_queue_keeps_its_size_base_and_rings) {
        struct vhost_vring_addr addr = {
                .desc_user_addr = VMM_USER_BASE + RINGS(0),
                .avail_user_addr = VMM_USER_BASE + RINGS(0) + 0x1000,
                .used_user_addr = VMM_USER_BASE + RINGS(0) + 0x2000,
        };
        struct machine m;

        MACHINE_START(&m);
        cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_NUM, 0, 128));
        cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_BASE, 0, 7));
        cr_assert(vmm_call(m.socket, VU_SET_VRING_ADDR, &addr, sizeof addr, NULL, 0)); /* the same */
        addr.used_user_addr += 0x1000;
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_ADDR, &addr, sizeof addr, NULL, 0));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

/* ---- the front-end goes ---- */

TEST(stop, next_front_end_is_served) {
        struct machine m;

        MACHINE_START(&m);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_disconnect(&m);
        machine_connect(&m, FEATURES);
        cr_assert(queue_start(&m, &m.queues[0], 1));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

/* The one that reconnects counts on what it saw in the used ring when it went. */
TEST(stop, requests_of_a_front_end_that_went_are_not_answered) {
        struct stand_in_submit submit;
        struct machine m;

        MACHINE_START(&m, .absent = true);
        for (unsigned i = 0; i < 2; i++) {
                submit = pages_expect(m.pages);
                pages_complete(m.pages, &submit, 0);
        }
        blk_post(&m, &m.queues[0], 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        queue_kick(&m.queues[0]);
        submit = pages_expect(m.pages);
        machine_disconnect(&m);
        cr_assert(EVENTUALLY(machine_logged(&m, "disconnected")));
        pages_complete(m.pages, &submit, 0);
        machine_connect(&m, FEATURES); /* is accepted after the request's end */
        cr_assert(!queue_has_answer(&m, &m.queues[0]));
        cr_assert_eq(blk_status(&m, 0), STATUS_NONE);
        cr_assert(queue_start(&m, &m.queues[0], 0)); /* and does it again */
        (void) queue_wait(&m, &m.queues[0], NULL);
        cr_assert_eq(blk_status(&m, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(stop, front_end_may_go_while_a_queue_drains) {
        struct stand_in_submit submit;
        struct machine m;

        MACHINE_START(&m, .absent = true);
        submit = pages_expect(m.pages);
        queue_stop_ask(&m, &m.queues[0]);
        machine_disconnect(&m);
        cr_assert(EVENTUALLY(machine_logged(&m, "disconnected")));
        pages_complete(m.pages, &submit, 0);
        submit = pages_expect(m.pages);
        pages_complete(m.pages, &submit, 0);
        machine_connect(&m, FEATURES);
        machine_stop(&m);
}

/* ---- dirty log ---- */

static uint8_t *log_start(struct machine *m, int seals) {
        struct vu_log log = { .size = MEMORY_SIZE / 4096 / 8 };
        _cleanup_close_ int fd = memfd_new("log", log.size, 4096);
        uint64_t reply;
        uint8_t *bits;

        cr_assert(fd >= 0 && memfd_seal(fd, seals) == 0);
        cr_assert(vmm_send(m->socket, VU_SET_LOG_BASE, 0, &log, sizeof log, &fd, 1));
        if (!seals)
                return NULL;
        vmm_receive(m->socket, VU_SET_LOG_BASE, &reply, sizeof reply);
        bits = mmap(NULL, log.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(bits != MAP_FAILED);
        return bits;
}

static bool log_has(const uint8_t *bits, uint64_t gpa) {
        return bits[gpa / 4096 / 8] >> gpa / 4096 % 8 & 1;
}

TEST(stop, dirty_log_names_what_the_device_wrote) {
        struct vhost_vring_addr addr = {
                .flags = 1u << VHOST_VRING_F_LOG,
                .desc_user_addr = VMM_USER_BASE + RINGS(0),
                .avail_user_addr = VMM_USER_BASE + RINGS(0) + 0x1000,
                .used_user_addr = VMM_USER_BASE + RINGS(0) + 0x2000,
        };
        const struct buffer in[] = { { DATA(1) + 4000, 200, WRITABLE }, { DATA(7), 824, WRITABLE } };
        unsigned n = 0;
        uint8_t *bits;
        struct machine m;

        MACHINE_START(&m);
        bits = log_start(&m, F_SEAL_SHRINK);
        cr_assert(vmm_call_u64(m.socket, VU_SET_FEATURES, FEATURES | BIT(VU_F_PROTOCOL_FEATURES) | BIT(VU_F_LOG_ALL)));
        cr_assert(vmm_call(m.socket, VU_SET_VRING_ADDR, &addr, sizeof addr, NULL, 0));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, in, 2), VIRTIO_BLK_S_OK);
        cr_assert(log_has(bits, DATA(1)) && log_has(bits, DATA(2)) && log_has(bits, DATA(7)));
        cr_assert(log_has(bits, STATUS(0)) && log_has(bits, RINGS(0) + 0x2000));
        for (unsigned i = 0; i < MEMORY_SIZE / 4096 / 8; i++)
                n += (unsigned) __builtin_popcount(bits[i]);
        cr_assert_eq(n, 5, "%u pages are marked", n);
        (void) munmap(bits, MEMORY_SIZE / 4096 / 8);
        machine_stop(&m);
}

TEST(stop, dirty_log_that_could_shrink_is_refused) {
        struct machine m;

        MACHINE_START(&m);
        (void) log_start(&m, 0);
        cr_assert(vmm_is_hung_up(m.socket));
        cr_assert(machine_logged(&m, "SET_LOG_BASE"));
        machine_stop(&m);
}
