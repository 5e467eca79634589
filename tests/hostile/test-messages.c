/* SPDX-License-Identifier: MIT */
/* Control messages that break the rules. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"

/* What the first packet of a connection may not be: the broker says why and hangs up. */
static void assert_first_packet_refused(struct scene *scene, const void *packet, size_t size, const char *log) {
        struct raw raw = { .socket = raw_socket(scene->broker.address) };

        cr_assert(raw.socket >= 0);
        cr_assert(raw_send(&raw, packet, size, NULL, 0) == 0);
        cr_assert(raw_is_hung_up(&raw), "the broker did not hang up");
        cr_assert(strstr(raw.text, log), "REFUSED says '%s' instead of '%s'", raw.text, log);
        (void) close(raw.socket);
        scene_assert_logged(scene, log);
}

TEST(messages, hello_must_be_first_and_whole) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        struct pb_message_plain stats = { .header = { .type = PB_MSG_STATS, .size = sizeof stats, .serial = 1 } };
        static const uint8_t garbage[PB_MESSAGE_SIZE_MAX] = { 0xff, 0xff, 0xff, 0xff, 0xff };
        static const uint8_t long_one[4 * PB_MESSAGE_SIZE_MAX];
        struct scene scene;

        SCENE_OPEN(&scene);
        assert_first_packet_refused(&scene, garbage, sizeof garbage, "size field is not its size");
        assert_first_packet_refused(&scene, garbage, 1, "size field is not its size");
        assert_first_packet_refused(&scene, &hello, sizeof hello - 1, "size field is not its size");
        assert_first_packet_refused(&scene, &hello, sizeof hello.header, "size field is not its size");
        assert_first_packet_refused(&scene, long_one, sizeof long_one, "too long");
        assert_first_packet_refused(&scene, &stats, sizeof stats, "not a HELLO");
        hello.header.size = sizeof hello - 8;
        assert_first_packet_refused(&scene, &hello, sizeof hello - 8, "not a HELLO");
        scene_close(&scene);
}

/* Each HELLO is refused with this error. */
static void assert_hello_refused(struct scene *scene, const struct pb_message_hello *hello, int error,
                                 const char *log) {
        struct raw raw;
        int r = raw_shake_hands(&raw, raw_socket(scene->broker.address), hello);

        cr_assert(r == error, "refused with %d instead of %d: %s", r, error, raw.text);
        scene_assert_logged(scene, log);
}

TEST(messages, hello_of_other_versions_features_roles_and_epochs_is_refused) {
        struct pb_message_hello hello;
        struct scene scene;

        SCENE_OPEN(&scene);
        hello = raw_hello(PB_AS_DEVICE);
        hello.version_min = hello.version_max = PB_VERSION_MAX + 1;
        assert_hello_refused(&scene, &hello, -EPROTONOSUPPORT, "protocol versions");
        hello.version_min = hello.version_max = 0;
        assert_hello_refused(&scene, &hello, -EPROTONOSUPPORT, "protocol versions");
        hello.version_min = UINT32_MAX;
        hello.version_max = PB_VERSION_MIN;
        assert_hello_refused(&scene, &hello, -EPROTONOSUPPORT, "protocol versions");
        hello = raw_hello(PB_AS_DEVICE);
        hello.incompat = 1ull << 63;
        assert_hello_refused(&scene, &hello, -EPROTONOSUPPORT, "needs features");
        hello = raw_hello(0);
        assert_hello_refused(&scene, &hello, -EINVAL, "role or flag that does not exist");
        hello = raw_hello(UINT32_MAX);
        assert_hello_refused(&scene, &hello, -EINVAL, "role or flag that does not exist");
        hello = raw_hello(PB_AS_DEVICE);
        hello.flags = 1u << 31;
        assert_hello_refused(&scene, &hello, -EINVAL, "role or flag that does not exist");
        hello = raw_hello(PB_AS_DEVICE);
        hello.epoch = 1;
        assert_hello_refused(&scene, &hello, -ESTALE, "epoch");
        scene_close(&scene);
}

TEST(messages, unterminated_name_with_control_characters_is_one_clean_line) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        memset(hello.name, 'x', sizeof hello.name);
        hello.name[0] = '\n';
        hello.name[1] = '\033';
        hello.compat = ~0ull; /* what may be ignored is */
        cr_assert(raw_shake_hands(&raw, raw_socket(scene.broker.address), &hello) == 0);
        raw_close(&raw);
        scene_assert_logged(&scene, "client ??xxxxxxxxxxxxxxxxxxxxxxxxxxxxx (pid");
        scene_close(&scene);
}

/* After READY: a message that ends the session. */
static void assert_message_ends_session(struct scene *scene, const void *message, size_t size, const char *log) {
        struct raw raw;

        cr_assert(raw_open(&raw, scene->broker.address, PB_AS_VMM) == 0);
        cr_assert(raw_send(&raw, message, size, NULL, 0) == 0);
        cr_assert(raw_is_hung_up(&raw));
        cr_assert(strstr(raw.text, log), "REFUSED says '%s' instead of '%s'", raw.text, log);
        cr_assert(EVENTUALLY(__atomic_load_n(&raw.state->closed, __ATOMIC_ACQUIRE) == 1));
        raw_close(&raw);
}

TEST(messages, every_type_with_a_wrong_size_or_no_serial_ends_the_session) {
        static const size_t sizes[] = {
                [PB_MSG_HELLO] = sizeof(struct pb_message_hello),
                [PB_MSG_ATTACH_PEER] = sizeof(struct pb_message_attach_peer),
                [PB_MSG_MAP_PEER] = sizeof(struct pb_message_map_peer),
                [PB_MSG_DETACH_PEER] = sizeof(struct pb_message_detach_peer),
                [PB_MSG_STATS] = sizeof(struct pb_message_plain),
                [PB_MSG_SET_FILL] = sizeof(struct pb_message_set_fill),
                [PB_MSG_EXPLAIN] = sizeof(struct pb_message_explain),
                [PB_MSG_HEAL] = sizeof(struct pb_message_heal),
                [PB_MSG_ADD_MEMORY] = sizeof(struct pb_message_add_memory),
                [PB_MSG_REMOVE_MEMORY] = sizeof(struct pb_message_of_memory),
                [PB_MSG_RELEASE] = sizeof(struct pb_message_of_memory),
                [PB_MSG_UNMAP_PEER] = sizeof(struct pb_message_unmap_peer),
                [PB_MSG_TELL_MEMORY] = sizeof(struct pb_message_of_memory),
        };
        struct scene scene;

        SCENE_OPEN(&scene);
        for (uint32_t type = 0; type < ELEMENTS(sizes) + 2; type++) {
                size_t right = type < ELEMENTS(sizes) && sizes[type] ? sizes[type] : sizeof(struct pb_message_plain);
                union {
                        struct pb_message_header header;
                        uint8_t bytes[PB_MESSAGE_SIZE_MAX];
                } message = { .header = { .type = type, .size = (uint32_t) right + 8, .serial = 1 } };

                assert_message_ends_session(&scene, &message, right + 8, "unknown type, a wrong size");
                message.header.size = (uint32_t) right;
                message.header.serial = 0;
                assert_message_ends_session(&scene, &message, right, "unknown type, a wrong size");
                assert_message_ends_session(&scene, &message, right / 2, "size field is not its size");
        }
        scene_assert_logged(&scene, "client hostile");
        scene_close(&scene);
}

TEST(messages, empty_packet_is_the_end) {
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert(send(raw.socket, "", 0, 0) == 0);
        cr_assert(raw_is_hung_up(&raw));
        raw_close(&raw);
        scene_close(&scene);
}

TEST(messages, random_packets_never_end_the_broker) {
        struct scene scene;
        unsigned seed = 1;

        SCENE_OPEN(&scene);
        for (unsigned round = 0; round < 150; round++) {
                uint32_t packet[PB_MESSAGE_SIZE_MAX / 4];
                size_t size = 1 + (size_t) rand_r(&seed) % sizeof packet;
                struct raw raw;

                for (unsigned i = 0; i < ELEMENTS(packet); i++)
                        packet[i] = (uint32_t) rand_r(&seed);
                cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
                /* Sometimes a right header on wrong contents. */
                if (round % 2) {
                        struct pb_message_header header = { .type = PB_MSG_ATTACH_PEER + round / 2 % 8,
                                                            .size = (uint32_t) size,
                                                            .serial = 1 };

                        memcpy(packet, &header, sizeof header);
                }
                cr_assert(raw_send(&raw, packet, size, NULL, 0) == 0);
                raw_close(&raw);
        }
        scene_close(&scene);
}
