/* SPDX-License-Identifier: MIT */
/* A front-end that breaks the protocol loses its connection (or the message), and the next one is served. */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/integration/vhost-user-blk/ring.h"

static void expect_next_is_served(struct machine *m) {
        machine_disconnect(m);
        machine_connect(m, FEATURES);
        cr_assert(queue_start(m, &m->queues[0], m->queues[0].used_index));
        cr_assert_eq(blk_do(m, &m->queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
}

/* ---- memory ---- */

static bool offer_memory(struct machine *m, int fd, uint64_t gpa, uint64_t size, uint64_t offset) {
        struct vu_region region = { .gpa = gpa, .size = size, .user = VMM_USER_BASE, .offset = offset };

        return vmm_set_memory(m->socket, &region, 1, &fd);
}

TEST(hostile_front_end, memory_that_is_not_the_brokers_is_refused_with_advice) {
        _cleanup_close_ int other = memfd_new("other", MEMORY_SIZE, 4096);
        struct machine m;

        MACHINE_START(&m);
        cr_assert(!offer_memory(&m, other, 0, MEMORY_SIZE, 0));
        cr_assert(machine_logged(&m, "start the VMM with the broker's memory"));
        cr_assert(!offer_memory(&m, m.memory_fd, 0, MEMORY_SIZE - 4096, 4096));
        cr_assert(!offer_memory(&m, m.memory_fd, 0, MEMORY_SIZE + 4096, 0));
        cr_assert(machine_logged(&m, "does not know"));
        cr_assert(!offer_memory(&m, m.memory_fd, 4096, UINT64_MAX - 100, 4096));
        cr_assert(!offer_memory(&m, m.memory_fd, 0, 0, 0));
        cr_assert(offer_memory(&m, m.memory_fd, 4096, MEMORY_SIZE - 8192, 4096));
        cr_assert(offer_memory(&m, m.memory_fd, 0, MEMORY_SIZE, 0));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

/* One memory in two places, as a PC shows it; a buffer across the seam of two regions that touch. */
TEST(hostile_front_end, memory_may_lie_in_several_regions) {
        const struct stand_in_region regions[] = { { 0, 6 << 20, 0 },
                                                   { 6 << 20, 1 << 20, 7 << 20 },
                                                   { 1ull << 32, 1 << 20, 6 << 20 } };
        const struct buffer in = { (6 << 20) - 1024, 2048, VRING_DESC_F_WRITE };
        const struct buffer high = { (1ull << 32) + 512, 512, VRING_DESC_F_WRITE };
        struct machine_options options = { .no_queues = true, .n_regions = 3 };
        struct vu_region table[3];
        struct machine m;
        int fds[3];

        memcpy(options.regions, regions, sizeof regions);
        machine_start(&m, &options);
        for (unsigned i = 0; i < 3; i++) {
                table[i] = (struct vu_region) { regions[i].gpa, regions[i].size, VMM_USER_BASE + regions[i].gpa,
                                                regions[i].offset };
                fds[i] = m.memory_fd;
        }
        m.socket = vmm_connect(m.socket_path);
        vmm_negotiate(m.socket, FEATURES);
        cr_assert(vmm_set_memory(m.socket, table, 3, fds));
        cr_assert(queue_start(&m, &m.queues[0], 0));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 0, &in, 1), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, (6 << 20) - 1024), m.disk, 1024) == 0);
        cr_assert(memcmp(machine_at(&m, 6 << 20), m.disk + 1024, 1024) == 0);
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_IN, 8, &high, 1), VIRTIO_BLK_S_OK);
        cr_assert(memcmp(machine_at(&m, (1ull << 32) + 512), m.disk + 8 * SECTOR, 512) == 0);
        machine_stop(&m);
}

/* ---- queues ---- */

TEST(hostile_front_end, impossible_rings_are_refused) {
        static const struct {
                uint64_t desc, avail, used;
        } places[] = {
                { RINGS(0) + 8, RINGS(0) + 0x1000, RINGS(0) + 0x2000 },
                { RINGS(0), RINGS(0) + 0x1001, RINGS(0) + 0x2000 },
                { RINGS(0), RINGS(0) + 0x1000, RINGS(0) + 0x2002 },
                { MEMORY_SIZE, RINGS(0) + 0x1000, RINGS(0) + 0x2000 },
                { RINGS(0), 0 - VMM_USER_BASE, RINGS(0) + 0x2000 },
        };
        struct machine m;

        MACHINE_START(&m, .no_queues = true);
        machine_connect(&m, FEATURES);
        for (unsigned size = 0; size < 70000; size = size * 2 + 1)
                cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_NUM, 0, size), "size %u", size);
        cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_NUM, 0, 2048));
        cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_NUM, 8, 256));
        cr_assert(!vmm_call_state(m.socket, VU_SET_VRING_BASE, 0, 65536));
        for (unsigned i = 0; i < ELEMENTS(places); i++) {
                m.queues[0].desc = places[i].desc;
                m.queues[0].avail = places[i].avail;
                m.queues[0].used = places[i].used;
                cr_assert(!queue_start(&m, &m.queues[0], 0), "place %u", i);
        }
        /* Begins inside, ends outside: noticed when it starts. */
        m.queues[0].desc = MEMORY_SIZE - 4096 + 16;
        m.queues[0].avail = RINGS(0) + 0x1000;
        m.queues[0].used = RINGS(0) + 0x2000;
        cr_assert(!queue_start(&m, &m.queues[0], 0));
        m.queues[0].desc = RINGS(0);
        cr_assert(queue_start(&m, &m.queues[0], 0));
        cr_assert_eq(blk_do(&m, &m.queues[0], VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
        machine_stop(&m);
}

TEST(hostile_front_end, kick_must_be_an_eventfd) {
        uint64_t index = 0, index_without = 0 | VU_VRING_NO_FD;
        struct machine m;

        MACHINE_START(&m);
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_KICK, &index, sizeof index, &m.memory_fd, 1));
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_KICK, &index, sizeof index, &m.socket, 1));
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_KICK, &index, sizeof index, NULL, 0));
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_KICK, &index_without, sizeof index_without, NULL, 0));
        cr_assert(!vmm_call(m.socket, VU_SET_VRING_CALL, &index, sizeof index, &m.memory_fd, 1));
        cr_assert(vmm_call(m.socket, VU_SET_VRING_CALL, &index_without, sizeof index_without, NULL, 0));
        expect_next_is_served(&m);
        machine_stop(&m);
}

TEST(hostile_front_end, feature_that_was_not_offered_is_refused) {
        struct machine m;

        MACHINE_START(&m);
        cr_assert(!vmm_call_u64(m.socket, VU_SET_FEATURES, FEATURES | BIT(VIRTIO_BLK_F_RO)));
        cr_assert(!vmm_call_u64(m.socket, VU_SET_PROTOCOL_FEATURES, BIT(12)));
        machine_stop(&m);
}

/* ---- messages ---- */

TEST(hostile_front_end, broken_messages_end_the_connection) {
        static const struct {
                struct vu_header header;
                size_t size; /* really sent */
        } messages[] = {
                { { VU_GET_FEATURES, 0, 0 }, 0 },                         /* no version */
                { { VU_GET_FEATURES, 2, 0 }, 0 },                         /* another */
                { { VU_SET_FEATURES, VU_FLAG_VERSION, 4 }, 4 },           /* too short */
                { { VU_SET_FEATURES, VU_FLAG_VERSION, 16 }, 16 },         /* too long */
                { { VU_SET_FEATURES, VU_FLAG_VERSION, UINT32_MAX }, 64 }, /* longer than any */
                { { VU_SET_MEM_TABLE, VU_FLAG_VERSION, 8 }, 8 },          /* no regions */
                { { VU_SET_MEM_TABLE, VU_FLAG_VERSION, 40 }, 40 },        /* counts what is not there */
                { { 0, VU_FLAG_VERSION, 0 }, 0 },
                { { 23, VU_FLAG_VERSION, 8 }, 8 },
                { { 0x7fffffff, VU_FLAG_VERSION, 8 }, 8 },
                { { UINT32_MAX, VU_FLAG_VERSION, 8 }, 8 },
        };
        uint8_t junk[64];
        struct machine m;

        memset(junk, 0xa5, sizeof junk);
        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(messages); i++) {
                machine_disconnect(&m);
                m.socket = vmm_connect(m.socket_path);
                cr_assert(vmm_send_raw(m.socket, &messages[i].header, junk, messages[i].size, NULL, 0));
                cr_assert(vmm_is_hung_up(m.socket), "message %u", i);
        }
        expect_next_is_served(&m);
        machine_stop(&m);
}

TEST(hostile_front_end, half_a_message_and_gone) {
        struct vu_header header = { VU_SET_FEATURES, VU_FLAG_VERSION, 8 };
        struct machine m;

        MACHINE_START(&m);
        for (size_t n = 0; n < sizeof header + 4; n++) {
                char bytes[sizeof header + 4] = { 0 };

                memcpy(bytes, &header, sizeof header);
                machine_disconnect(&m);
                m.socket = vmm_connect(m.socket_path);
                cr_assert(n == 0 || send(m.socket, bytes, n, MSG_NOSIGNAL) == (ssize_t) n);
        }
        expect_next_is_served(&m);
        machine_stop(&m);
}

/* machine_stop() counts the device's descriptors. */
TEST(hostile_front_end, descriptors_that_nobody_asked_for_are_closed) {
        int fds[40];
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < ELEMENTS(fds); i++)
                fds[i] = m.memory_fd;
        for (unsigned i = 0; i < 20; i++) {
                cr_assert(vmm_send(m.socket, VU_GET_FEATURES, 0, NULL, 0, fds, 8));
                vmm_receive(m.socket, VU_GET_FEATURES, &(uint64_t) { 0 }, 8);
        }
        cr_assert(vmm_send(m.socket, VU_GET_FEATURES, 0, NULL, 0, fds, ELEMENTS(fds)));
        cr_assert(vmm_is_hung_up(m.socket));
        expect_next_is_served(&m);
        machine_stop(&m);
}

TEST(hostile_front_end, who_does_not_read_the_replies_is_dropped) {
        struct machine m;

        MACHINE_START(&m);
        for (unsigned i = 0; i < 10000000; i++)
                if (!vmm_send(m.socket, VU_GET_FEATURES, 0, NULL, 0, NULL, 0))
                        break;
        cr_assert(vmm_is_hung_up(m.socket));
        expect_next_is_served(&m);
        machine_stop(&m);
}
