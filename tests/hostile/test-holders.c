/* SPDX-License-Identifier: MIT */
/* Who may still touch a memory that is to leave: clients that have gone without a word, mappings that are on their way. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "client/pagebroker.h"
#include "common/fd.h"
#include "common/macro.h"
#include "common/packet.h"
#include "tests/hostile/raw.h"
#include "tests/lib/connect.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

#define DIMM_PAGES 64u
#define DIMM 1u
#define DIMM_GPA (1ull << 40)

static int add(struct raw *raw) {
        struct pb_message_add_memory message = {
                .header = { .type = PB_MSG_ADD_MEMORY, .size = sizeof message, .serial = 5 },
                .name = "dimm0",
                .n_regions = 1,
                .regions = { { .gpa = DIMM_GPA, .size = DIMM_PAGES * TEST_PAGE } },
        };

        return raw_call(raw, &message, sizeof message, -1, NULL);
}

static struct pb_message_of_memory of_memory(uint32_t type, uint32_t memory) {
        return (struct pb_message_of_memory) {
                .header = { .type = type, .size = sizeof(struct pb_message_of_memory), .serial = 6 },
                .memory = memory,
        };
}

static int call(struct raw *raw, uint32_t type, uint32_t memory) {
        struct pb_message_of_memory message = of_memory(type, memory);

        return raw_call(raw, &message, sizeof message, -1, NULL);
}

struct plugged {
        struct test_image image, dimm;
        struct test_broker broker;
        struct raw vmm; /* does not have it */
        int parent, child; /* a byte each way: come so far */
};

static void plugged_open(struct plugged *plugged, const char *option) {
        int ends[2];

        test_image_make(&plugged->image, &(struct test_image_spec) { .seed = 11, .n_pages = DIMM_PAGES });
        test_image_make(&plugged->dimm, &(struct test_image_spec) { .seed = 12, .n_pages = DIMM_PAGES });
        TEST_BROKER_START(&plugged->broker, "--fill=off", "--release-timeout=0.05", TEST_MEMORY("ram0", &plugged->image),
                          test_memory("dimm0", &plugged->dimm, ",plugged=off"), option);
        cr_assert(raw_open(&plugged->vmm, plugged->broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(add(&plugged->vmm), 0);
        cr_assert_eq(call(&plugged->vmm, PB_MSG_RELEASE, DIMM), 0);
        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        plugged->parent = ends[0];
        plugged->child = ends[1];
}

static void plugged_close(struct plugged *plugged) {
        raw_close(&plugged->vmm);
        (void) close(plugged->parent);
        (void) close(plugged->child);
        test_broker_stop(&plugged->broker);
        test_image_unlink(&plugged->image);
        test_image_unlink(&plugged->dimm);
}

static bool tell(int fd) {
        return send(fd, "", 1, MSG_NOSIGNAL) == 1;
}

static bool await_word(int fd) {
        char byte;

        return poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) == 1 &&
               recv(fd, &byte, 1, 0) == 1;
}

/* It has it from the start, and hangs up without a word. */
static int hang_up_and_live(void *arg) {
        struct raw_push want = raw_want(3, 1);
        struct plugged *plugged = arg;
        struct raw raw;

        CHILD_CHECK(raw_open(&raw, plugged->broker.address, PB_AS_DEVICE) == 0);
        CHILD_CHECK(raw.memory[DIMM]);
        want.ranges[0].memory = DIMM;
        CHILD_CHECK(raw_request(&raw, 0, &want) == 0);
        (void) close(raw.socket);
        CHILD_CHECK(tell(plugged->child) && await_word(plugged->child));
        /* Nothing was taken away from under the pointer. */
        CHILD_CHECK(test_image_expect(&plugged->dimm, 3, raw.memory[DIMM] + 3 * TEST_PAGE));
        return 0;
}

/* With a ring of its own it says that it resumes. What it had before, it lets go of. */
static int resume_nothing(struct raw *raw, const struct plugged *plugged) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        int ring = memfd_new("ring", sizeof(struct pb_ring), TEST_PAGE), r;
        _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX] = {};
        const struct pb_message_header *header = (const void *) buffer;

        hello.epoch = plugged->vmm.header[0]->epoch;
        cr_assert(ring >= 0 && memfd_seal(ring, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
        cr_assert_eq(raw_open(raw, plugged->broker.address, PB_AS_DEVICE), 0);
        cr_assert_eq(call(raw, PB_MSG_RELEASE, PB_RELEASE_ALL), 0);
        (void) close(raw->socket);
        raw->socket = raw_socket(plugged->broker.address);
        r = packet_send(raw->socket, &hello, sizeof hello, &ring, 1, 0);
        while (r == 0 && header->type != PB_MSG_READY)
                r = recv(raw->socket, buffer, sizeof buffer, 0) > 0 && header->type != PB_MSG_REFUSED ? 0 : -EPROTO;
        (void) close(ring);
        return r;
}

TEST(holders, who_hangs_up_without_a_word_holds_it_until_its_process_ends) {
        struct plugged plugged;
        struct raw liar;
        pid_t pid;

        plugged_open(&plugged, NULL);
        pid = test_child_start((uid_t) -1, hang_up_and_live, &plugged);
        cr_assert(await_word(plugged.parent));
        cr_assert_eq(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
        cr_assert(strstr(plugged.vmm.text, "hostile (pid") && strstr(plugged.vmm.text, "whose connection is gone"), "%s",
                  plugged.vmm.text);
        /* Somebody else who says that he carries on takes nobody's place. */
        cr_assert_eq(resume_nothing(&liar, &plugged), 0);
        cr_assert_eq(call(&liar, PB_MSG_RELEASE, PB_RELEASE_ALL), 0);
        cr_assert_eq(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
        raw_close(&liar);
        cr_assert(tell(plugged.parent));
        cr_assert_eq(test_child_wait(pid), 0);
        cr_assert(EVENTUALLY(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM) == -ENOENT));
        plugged_close(&plugged);
}

/* Its connection breaks, and it finds out when it waits for the next page. */
TEST(holders, who_comes_back_after_its_connection_broke_holds_it_and_can_let_go) {
        struct plugged plugged;
        struct pb_region region;
        pb_client *device;

        plugged_open(&plugged, NULL);
        device = test_connect(&plugged.broker, PB_ROLE_DEVICE);
        cr_assert_eq(pb_ensure(device, DIMM_GPA, TEST_PAGE, PB_READ), 0);
        cr_assert(shutdown(device->socket, SHUT_RDWR) == 0);
        cr_assert(test_broker_will_log(&plugged.broker, "has hung up"));
        cr_assert_eq(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
        cr_assert(strstr(plugged.vmm.text, "whose connection is gone"), "%s", plugged.vmm.text);
        cr_assert_eq(pb_get_region(device, 1, &region), 0);
        cr_assert(test_image_expect(&plugged.dimm, 0, region.addr));
        cr_assert_eq(pb_ensure(device, DIMM_GPA, DIMM_PAGES * TEST_PAGE, PB_READ), 0);
        cr_assert_eq(test_image_compare(&plugged.dimm, 0, DIMM_PAGES, region.addr), TEST_IMAGE_NONE);
        cr_assert_eq(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
        cr_assert_null(strstr(plugged.vmm.text, "whose connection is gone"), "%s", plugged.vmm.text);
        cr_assert_eq(pb_release_region(device, 1), 0);
        cr_assert(EVENTUALLY(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM) == -ENOENT));
        device = test_disconnect(device);
        plugged_close(&plugged);
}

/* Each of them costs the broker a descriptor, as long as the process lives. */
static int come_and_go(void *arg) {
        struct plugged *plugged = arg;
        struct raw raw;
        unsigned n = 0;
        int r;

        while ((r = raw_open(&raw, plugged->broker.address, PB_AS_DEVICE)) == 0 && n < 100) {
                raw_close(&raw);
                n++;
        }
        CHILD_CHECK(r == -EMFILE);
        CHILD_CHECK(strstr(raw.text, "without a word"));
        CHILD_CHECK(n == 16);
        raw_close(&raw);
        return 0;
}

TEST(holders, who_comes_and_goes_without_a_word_is_let_in_a_bounded_number_of_times) {
        struct plugged plugged;

        plugged_open(&plugged, "--client-limit=16");
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, come_and_go, &plugged)), 0);
        cr_assert(EVENTUALLY(call(&plugged.vmm, PB_MSG_REMOVE_MEMORY, DIMM) != -EBUSY));
        plugged_close(&plugged);
}

/* ---- mappings ---- */

static int unmap(struct raw *raw, uint32_t peer, uint64_t address, uint64_t length) {
        struct pb_message_unmap_peer message = {
                .header = { .type = PB_MSG_UNMAP_PEER, .size = sizeof message, .serial = 9 },
                .peer = peer,
                .address = address,
                .length = length,
        };

        return raw_call(raw, &message, sizeof message, -1, NULL);
}

static struct pb_message_map_peer map_message(uint32_t peer, uint32_t memory, const void *address) {
        return (struct pb_message_map_peer) {
                .header = { .type = PB_MSG_MAP_PEER, .size = sizeof(struct pb_message_map_peer), .serial = 10 },
                .peer = peer,
                .memory = memory,
                .address = (uintptr_t) address,
                .length = TEST_PAGE,
        };
}

static int map_peer(struct raw *raw, uint32_t peer, uint32_t memory, const void *address) {
        struct pb_message_map_peer message = map_message(peer, memory, address);

        return raw_call(raw, &message, sizeof message, -1, NULL);
}

/* Without a session it holds nothing but what it maps. */
static int open_mapper(struct raw *raw, const struct plugged *plugged, uint32_t *ret_peer) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);

        hello.flags = PB_HELLO_NO_SESSION;
        CHILD_CHECK(raw_shake_hands(raw, raw_socket(plugged->broker.address), &hello) == 0);
        CHILD_CHECK(raw->memory[DIMM]);
        CHILD_CHECK(raw_attach(raw, test_uffd_open(), ret_peer) == 0);
        return 0;
}

/* A mapping and a removal at the same time: the one or the other, and never a mapping of what has left. */
static int map_while_it_leaves(void *arg) {
        struct pb_message_of_memory removal = of_memory(PB_MSG_REMOVE_MEMORY, DIMM);
        struct pb_message_hello hello = raw_hello(PB_AS_VMM);
        struct plugged *plugged = arg;
        struct raw raw, remover;
        uint32_t peer;

        hello.flags = PB_HELLO_NO_SESSION;
        CHILD_CHECK(raw_shake_hands(&remover, raw_socket(plugged->broker.address), &hello) == 0);
        CHILD_CHECK(open_mapper(&raw, plugged, &peer) == 0);
        for (unsigned i = 0; i < 300; i++) {
                const char *address = raw.memory[DIMM];
                struct pb_message_map_peer map = map_message(peer, DIMM, address);
                struct pb_message_result result;
                int r;

                CHILD_CHECK(raw_send(&raw, &map, sizeof map, NULL, 0) == 0);
                CHILD_CHECK(raw_send(&remover, &removal, sizeof removal, NULL, 0) == 0);
                CHILD_CHECK(recv(raw.socket, &result, sizeof result, 0) == sizeof result);
                r = result.error;
                CHILD_CHECK(r == 0 || r == -ENOENT);
                if (r == 0) {
                        CHILD_CHECK(map_peer(&raw, peer, DIMM, address) == 0); /* still there */
                        CHILD_CHECK(unmap(&raw, peer, (uintptr_t) address, TEST_PAGE) == 0);
                }
                CHILD_CHECK(recv(remover.socket, &result, sizeof result, 0) == sizeof result);
                CHILD_CHECK(result.error == 0 || result.error == -EBUSY);
                while ((r = call(&plugged->vmm, PB_MSG_REMOVE_MEMORY, DIMM)) == -EBUSY || r == 0)
                        ;
                CHILD_CHECK(r == -ENOENT);
                CHILD_CHECK(add(&plugged->vmm) == 0);
        }
        raw_close(&remover);
        raw_close(&raw);
        return 0;
}

TEST(holders, mapping_that_comes_while_a_memory_leaves_holds_it_or_is_refused) {
        struct plugged plugged;

        require_uffd();
        plugged_open(&plugged, NULL);
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, map_while_it_leaves, &plugged)), 0);
        plugged_close(&plugged);
}

static int map_another_over_it(void *arg) {
        struct plugged *plugged = arg;
        uint32_t peer;
        struct raw raw;

        CHILD_CHECK(open_mapper(&raw, plugged, &peer) == 0);
        CHILD_CHECK(map_peer(&raw, peer, DIMM, raw.memory[DIMM]) == 0);
        CHILD_CHECK(call(&plugged->vmm, PB_MSG_REMOVE_MEMORY, DIMM) == -EBUSY);
        CHILD_CHECK(strstr(plugged->vmm.text, "userfaultfd hostile"));
        CHILD_CHECK(mmap(raw.memory[DIMM], TEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, raw.guest[0], 0) ==
                    raw.memory[DIMM]);
        CHILD_CHECK(map_peer(&raw, peer, 0, raw.memory[DIMM]) == 0);
        CHILD_CHECK(EVENTUALLY(call(&plugged->vmm, PB_MSG_REMOVE_MEMORY, DIMM) == -ENOENT));
        CHILD_CHECK(test_image_expect(&plugged->image, 0, raw.memory[DIMM]));
        raw_close(&raw);
        return 0;
}

TEST(holders, mapping_of_another_memory_in_its_place_lets_go_of_it) {
        struct plugged plugged;

        require_uffd();
        plugged_open(&plugged, NULL);
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, map_another_over_it, &plugged)), 0);
        plugged_close(&plugged);
}
