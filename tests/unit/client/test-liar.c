/* SPDX-License-Identifier: MIT */
/* A broker that breaks the contract during the handshake. Every lie ends the connect with an error, leaves the output
 * alone and no descriptor open (TEST() counts). */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/link.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static const struct fake_options honest = { .n_pages = { 64, 32 } };

/* Connects to a broker that `tamper` spoils. */
static int lied_to(void (*tamper)(struct fake *fake, struct fake_packet *packet)) {
        struct fake_options options = honest;
        struct fake *fake;
        int r;

        options.tamper = tamper;
        fake = fake_new(&options);
        fake_start(fake);
        r = connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE));
        fake_free(fake);
        return r;
}

/* LIE(name, error, MESSAGE, what is done to `packet`): one test each. */
#define LIE(name, error, message, ...)                                             \
        static void tamper_##name(struct fake *fake, struct fake_packet *packet) { \
                if (packet->type == (message)) {                                   \
                        __VA_ARGS__;                                               \
                }                                                                  \
        }                                                                          \
        TEST(liar, name) {                                                         \
                cr_assert_eq(lied_to(tamper_##name), error);                       \
        }

static int memfd_with(uint64_t size, int seals) {
        int fd = memfd_new("lie", size, 4096);

        if (fd < 0 || memfd_seal(fd, seals) < 0)
                abort();
        return fd;
}

static int stream_end(void) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                abort();
        (void) close(pair[1]);
        return pair[0];
}

#define SHARED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* ---- packets ---- */

LIE(truncated_message, -EPROTO, PB_MSG_WELCOME, packet->size -= 8)
LIE(message_longer_than_it_says, -EPROTO, PB_MSG_WELCOME, packet->size += 8)
LIE(message_that_says_it_is_longer, -EPROTO, PB_MSG_WELCOME, packet->header.size += 8)
LIE(message_larger_than_any, -EPROTO, PB_MSG_WELCOME, packet->size = PB_MESSAGE_SIZE_MAX + 8)
LIE(shorter_than_a_header, -EPROTO, PB_MSG_WELCOME, packet->size = 5)
LIE(unknown_type, -EPROTO, PB_MSG_WELCOME, packet->header.type = 77)
LIE(message_out_of_order, -EPROTO, PB_MSG_WELCOME, packet->header.type = PB_MSG_READY;
    packet->header.size = sizeof(struct pb_message_plain); packet->size = sizeof(struct pb_message_plain))
LIE(answer_to_no_question, -EPROTO, PB_MSG_WELCOME, packet->header.serial = 3)
LIE(descriptor_where_none_belongs, -EPROTO, PB_MSG_WELCOME, packet->n_fds = 1; packet->fds[0] = eventfd(0, EFD_CLOEXEC))
LIE(missing_descriptor, -EPROTO, PB_MSG_MEMORY, packet->n_fds = 1)
LIE(more_descriptors_than_named, -EPROTO, PB_MSG_MEMORY, packet->n_fds = 3; packet->fds[2] = eventfd(0, EFD_CLOEXEC))
LIE(more_descriptors_than_any, -EPROTO, PB_MSG_MEMORY, packet->n_fds = 8;
    for (int i = 2; i < 8; i++) packet->fds[i] = eventfd(0, EFD_CLOEXEC))
LIE(no_ready, -EPROTO, PB_MSG_READY, packet->header.type = PB_MSG_RESULT;
    packet->header.size = sizeof packet->result; packet->size = sizeof packet->result)

/* ---- WELCOME ---- */

LIE(version_too_high, -EPROTONOSUPPORT, PB_MSG_WELCOME, packet->welcome.version = PB_VERSION_MAX + 1)
LIE(version_too_low, -EPROTONOSUPPORT, PB_MSG_WELCOME, packet->welcome.version = PB_VERSION_MIN - 1)
LIE(unknown_incompatible_feature, -EPROTONOSUPPORT, PB_MSG_WELCOME, packet->welcome.incompat = 1ull << 40)
LIE(another_role, -EPROTO, PB_MSG_WELCOME, packet->welcome.role = PB_AS_VMM)
LIE(no_epoch, -EPROTO, PB_MSG_WELCOME, packet->welcome.epoch = 0)
LIE(too_many_memories, -EPROTO, PB_MSG_WELCOME, packet->welcome.n_memories = PB_MEMORIES_MAX + 1)
LIE(too_many_regions, -EPROTO, PB_MSG_WELCOME, packet->welcome.n_regions = PB_REGIONS_MAX + 1)

/* ---- MEMORY ---- */

LIE(memory_of_no_size, -EPROTO, PB_MSG_MEMORY, packet->memory.size = 0)
LIE(memory_of_odd_size, -EPROTO, PB_MSG_MEMORY, packet->memory.size += 1)
LIE(memory_beyond_the_limit, -EPROTO, PB_MSG_MEMORY, packet->memory.size = PB_MEMORY_SIZE_MAX + 4096)
LIE(memory_smaller_than_said, -EPROTO, PB_MSG_MEMORY, packet->memory.size += 4096)
LIE(memory_of_odd_backing, -EPROTO, PB_MSG_MEMORY, packet->memory.backing_size = 8192)
LIE(memory_out_of_order, -EPROTO, PB_MSG_MEMORY, packet->memory.index = 1)
LIE(map_too_small_for_its_memory, -EPROTO, PB_MSG_MEMORY, packet->memory.map_size = 4096)
LIE(memory_with_another_inode, -EPROTO, PB_MSG_MEMORY, packet->memory.inode++)
LIE(memory_that_is_an_eventfd, -EPROTO, PB_MSG_MEMORY, packet->fds[0] = eventfd(0, EFD_CLOEXEC))
LIE(memory_that_is_a_file, -EPROTO, PB_MSG_MEMORY, packet->fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC))
LIE(memory_that_can_shrink, -EPROTO, PB_MSG_MEMORY,
    packet->fds[0] = memfd_with(packet->memory.size, F_SEAL_GROW | F_SEAL_SEAL))
LIE(map_without_its_seals, -EPROTO, PB_MSG_MEMORY, packet->fds[1] = memfd_with(packet->memory.map_size, SHARED))
LIE(map_full_of_zeros, -EPROTO, PB_MSG_MEMORY,
    packet->fds[1] = memfd_with(packet->memory.map_size, SHARED | F_SEAL_FUTURE_WRITE))
LIE(map_that_is_a_socket, -EPROTO, PB_MSG_MEMORY, packet->fds[1] = stream_end())
LIE(memory_that_cannot_be_written, -EPROTO, PB_MSG_MEMORY, packet->fds[0] = memfd_reopen_readonly(packet->fds[0]))

/* ---- the map's header ---- */

LIE(map_magic, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->magic++)
LIE(map_version, -EPROTONOSUPPORT, PB_MSG_MEMORY, fake->memories[1].map->version = 2)
LIE(map_incompatible_feature, -EPROTONOSUPPORT, PB_MSG_MEMORY, fake->memories[1].map->incompat = 1)
LIE(map_of_another_epoch, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->epoch = 2)
LIE(map_of_fewer_pages, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->n_pages--)
LIE(map_with_bitmap_outside, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->present_offset += 2 * PAGE)
LIE(map_with_bitmap_far_outside, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->poison_offset = UINT64_MAX - 4095)
LIE(map_with_bitmap_in_its_header, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->poison_offset = 0)
LIE(map_with_unaligned_bitmap, -EPROTO, PB_MSG_MEMORY, fake->memories[1].map->present_offset -= 2)

/* ---- REGION ---- */

LIE(region_of_no_memory, -EPROTO, PB_MSG_REGION, packet->region.memory = 2)
LIE(region_of_no_size, -EPROTO, PB_MSG_REGION, packet->region.size = 0)
LIE(region_not_on_pages, -EPROTO, PB_MSG_REGION, packet->region.gpa += 512)
LIE(region_longer_than_its_memory, -EPROTO, PB_MSG_REGION, packet->region.size = 65 * PAGE)
LIE(region_behind_its_memory, -EPROTO, PB_MSG_REGION, packet->region.offset = UINT64_MAX - 4095)
LIE(region_that_wraps, -EPROTO, PB_MSG_REGION, packet->region.gpa = UINT64_MAX - 4095)
LIE(region_out_of_order, -EPROTO, PB_MSG_REGION, packet->region.index ^= 1)
LIE(regions_that_overlap, -EPROTO, PB_MSG_REGION, if (packet->index == 1) packet->region.gpa -= PAGE)

/* ---- SESSION ---- */

LIE(ring_of_another_size, -EPROTO, PB_MSG_SESSION, packet->session.ring_size += 4096)
LIE(state_of_another_size, -EPROTO, PB_MSG_SESSION, packet->session.state_size = 4096)
LIE(another_number_of_slots, -EPROTO, PB_MSG_SESSION, packet->session.n_slots = 512)
LIE(ring_without_seals, -EPROTO, PB_MSG_SESSION, packet->fds[0] = memfd_new("ring", sizeof(struct pb_ring), 4096))
LIE(ring_magic, -EPROTO, PB_MSG_SESSION, fake->ring->magic = 0)
LIE(ring_version, -EPROTO, PB_MSG_SESSION, fake->ring->version = 0)
LIE(ring_slots, -EPROTO, PB_MSG_SESSION, fake->ring->n_slots = 1)
LIE(state_that_clients_can_write, -EPROTO, PB_MSG_SESSION,
    packet->fds[1] = memfd_with(sizeof(struct pb_session_state), SHARED))
LIE(state_magic, -EPROTO, PB_MSG_SESSION, fake->state->magic = 0)
LIE(state_epoch, -EPROTO, PB_MSG_SESSION, fake->state->epoch = 9)
LIE(doorbell_that_is_a_socket, -EPROTO, PB_MSG_SESSION, packet->fds[2] = stream_end())
LIE(completion_that_is_an_eventfd, -EPROTO, PB_MSG_SESSION, packet->fds[3] = eventfd(0, EFD_CLOEXEC))
LIE(completion_that_is_no_stream, -EPROTO, PB_MSG_SESSION, packet->fds[3] = stream_end())

/* ---- REFUSED ---- */

static void refuse(struct fake_packet *packet, int error) {
        packet->result = (struct pb_message_result) {
                .header = { .type = PB_MSG_REFUSED, .size = sizeof packet->result }, .error = error,
        };
        packet->size = sizeof packet->result;
        memset(packet->result.text, 'x', sizeof packet->result.text); /* no NUL */
        memcpy(packet->result.text, "not\ntoday ", 10);
}

LIE(refused, -EACCES, PB_MSG_WELCOME, refuse(packet, -EACCES))
LIE(refused_late, -EBUSY, PB_MSG_READY, refuse(packet, -EBUSY))
LIE(refused_with_success, -EPROTO, PB_MSG_WELCOME, refuse(packet, 0))
LIE(refused_with_no_errno, -EPROTO, PB_MSG_WELCOME, refuse(packet, 17))

/* ---- the rest ---- */

static void send_a_file_as_device(struct fake *fake, struct fake_packet *packet) {
        if (packet->type == PB_MSG_UFFD_DEVICE)
                packet->fds[0] = open("/dev/zero", O_RDWR | O_CLOEXEC);
}

TEST(liar, uffd_device_that_is_something_else) {
        struct fake_options options = honest;
        struct fake *fake;

        require_uffd();
        options.uffd_device = true;
        options.tamper = send_a_file_as_device;
        fake = fake_new(&options);
        fake_start(fake);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE)), -EPROTO);
        fake_free(fake);
}

LIE(silence_then_hang_up, -ECONNRESET, PB_MSG_WELCOME, packet->size = 0; (void) shutdown(fake->socket, SHUT_RDWR))

static void say_nothing(struct fake *fake, struct fake_packet *packet) {
        packet->size = 0;
}

TEST(liar, silence_is_bounded) {
        struct fake_options options = honest;
        struct link link;
        struct fake *fake;
        uint64_t start_us = clock_now_us();

        options.tamper = say_nothing;
        fake = fake_new(&options);
        fake_start(fake);
        cr_assert_eq(link_open(&link, fake->address,
                               &(struct link_options) { .role = PB_ROLE_DEVICE, .timeout_us = 50000 }),
                     -ETIMEDOUT);
        cr_assert_geq(clock_now_us() - start_us, 50000);
        fake_free(fake);
}

static void refuse_in_words(struct fake *fake, struct fake_packet *packet) {
        refuse(packet, -EACCES);
}

TEST(liar, words_of_a_refusal_are_cleaned) {
        struct fake_options options = honest;
        char reason[PB_TEXT_SIZE];
        struct link link;
        struct fake *fake;

        options.tamper = refuse_in_words;
        fake = fake_new(&options);
        fake_start(fake);
        cr_assert_eq(link_open(&link, fake->address,
                               &(struct link_options) { .role = PB_ROLE_DEVICE, .ret_reason = reason }),
                     -EACCES);
        cr_assert_eq(strncmp(reason, "not?today xxx", 13), 0, "%s", reason);
        cr_assert_eq(strlen(reason), PB_TEXT_SIZE - 1);
        fake_free(fake);
}

TEST(liar, an_attacher_gets_no_session) {
        struct fake *fake = fake_new(&honest);
        struct link link;

        fake_start(fake);
        cr_assert_eq(link_open(&link, fake->address,
                               &(struct link_options) { .role = PB_ROLE_DEVICE, .flags = PB_HELLO_NO_SESSION }), 0);
        cr_assert_eq(link.session.ring_fd, -1);
        cr_assert_eq(link.n_memories, 2);
        cr_assert_eq(link.memories[1].size, 32 * PAGE);
        cr_assert_str_eq(link.memories[1].name, "ram1");
        cr_assert_str_eq(link.vm_name, "fake");
        cr_assert_eq(fake->calls[0].hello.flags, PB_HELLO_NO_SESSION);
        link_done(&link);
        fake_free(fake);
}
