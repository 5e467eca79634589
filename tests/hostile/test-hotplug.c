/* SPDX-License-Identifier: MIT */
/* Memory that comes and goes, and clients who lie about it, ignore it, or leave in the middle. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

#define DIMM_PAGES 64u
#define DIMM 1u

struct setup {
        struct scene scene;
        struct test_image dimm;
};

static void setup_open(struct setup *setup) {
        char dimm[256];

        test_image_make(&setup->scene.image, &(struct test_image_spec) { .seed = 11, .n_pages = SCENE_PAGES });
        test_image_make(&setup->dimm, &(struct test_image_spec) { .seed = 12, .n_pages = DIMM_PAGES });
        (void) snprintf(dimm, sizeof dimm, "%s", test_memory("dimm0", &setup->dimm, ",plugged=off"));
        SCENE_OPEN(&setup->scene, dimm, "--release-timeout=0.2");
}

static void setup_close(struct setup *setup) {
        scene_close(&setup->scene);
        test_image_unlink(&setup->dimm);
}

static struct pb_message_add_memory add_message(uint64_t gpa, uint64_t size, uint64_t offset) {
        return (struct pb_message_add_memory) {
                .header = { .type = PB_MSG_ADD_MEMORY, .size = sizeof(struct pb_message_add_memory), .serial = 5 },
                .name = "dimm0",
                .n_regions = 1,
                .regions = { { .gpa = gpa, .size = size, .offset = offset } },
        };
}

static int add(struct raw *raw, uint64_t gpa, uint64_t size, uint64_t offset) {
        struct pb_message_add_memory message = add_message(gpa, size, offset);

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

TEST(hotplug, nonsense_is_refused_and_changes_nothing) {
        const uint64_t gpa = 1ull << 40, size = DIMM_PAGES * TEST_PAGE;
        struct pb_message_add_memory message = add_message(gpa, size, 0);
        struct setup setup;
        struct raw raw;

        setup_open(&setup);
        cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(add(&raw, gpa, 0, 0), -EINVAL);
        cr_assert_eq(add(&raw, gpa, size, TEST_PAGE), -EINVAL);
        cr_assert_eq(add(&raw, gpa, TEST_PAGE, UINT64_MAX - TEST_PAGE + 1), -EINVAL);
        cr_assert_eq(add(&raw, UINT64_MAX - TEST_PAGE + 1, size, 0), -EINVAL);
        cr_assert_eq(add(&raw, 0, size, 0), -EINVAL);
        message.n_regions = UINT32_MAX;
        cr_assert_eq(raw_call(&raw, &message, sizeof message, -1, NULL), -EINVAL);
        message.n_regions = 1;
        memset(message.name, 'd', sizeof message.name);
        cr_assert_eq(raw_call(&raw, &message, sizeof message, -1, NULL), -EINVAL);
        cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, DIMM), -ENOENT);
        cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, UINT32_MAX), -ENOENT);
        cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, 0), -EPERM);
        cr_assert_eq(call(&raw, PB_MSG_RELEASE, UINT32_MAX - 1), -ENOENT);
        cr_assert_eq(call(&raw, PB_MSG_TELL_MEMORY, UINT32_MAX), -ENOENT);
        /* Of what was never given, and twice. */
        cr_assert_eq(call(&raw, PB_MSG_RELEASE, DIMM), 0);
        cr_assert_eq(call(&raw, PB_MSG_RELEASE, DIMM), 0);
        scene_assert_served(&setup.scene);
        cr_assert_eq(add(&raw, gpa, size, 0), 0);
        raw_close(&raw);
        setup_close(&setup);
}

TEST(hotplug, device_may_neither_plug_nor_remove) {
        struct setup setup;
        struct raw raw;

        setup_open(&setup);
        cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert_eq(add(&raw, 1ull << 40, TEST_PAGE, 0), -EACCES);
        cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, 0), -EACCES);
        raw_close(&raw);
        setup_close(&setup);
}

TEST(hotplug, slots_for_what_is_not_plugged_in_are_efault) {
        struct raw_push push = raw_want(0, 1);
        struct setup setup;
        struct raw raw;

        setup_open(&setup);
        cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_VMM) == 0);
        push.ranges[0].memory = DIMM;
        cr_assert_eq(raw_request(&raw, 0, &push), -EFAULT);
        push.ranges[0].intent = PB_INTENT_OVERWRITE;
        cr_assert_eq(raw_request(&raw, 1, &push), -EFAULT);
        push.op = PB_SLOT_DISCARD;
        push.ranges[0].intent = 0;
        cr_assert_eq(raw_request(&raw, 2, &push), -EFAULT);
        raw_close(&raw);
        setup_close(&setup);
}

/* The honest client has it and never looks at what it is told: it holds it, and goes on. */
TEST(hotplug, who_ignores_leaving_is_named_and_blocks_it) {
        struct pb_message_of_memory removal = of_memory(PB_MSG_REMOVE_MEMORY, DIMM);
        struct setup setup;
        struct raw raw;

        setup_open(&setup);
        cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(add(&raw, 1ull << 40, DIMM_PAGES * TEST_PAGE, 0), 0);
        cr_assert_eq(call(&raw, PB_MSG_RELEASE, PB_RELEASE_ALL), 0);
        raw_close(&raw);
        cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(call(&raw, PB_MSG_RELEASE, DIMM), 0);
        cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
        cr_assert(strstr(raw.text, "still held by") && strstr(raw.text, "honest (pid"), "%s", raw.text);
        /* Twice at once is once too often, and the caller hangs up while the first waits. */
        for (unsigned i = 0; i < 8; i++) {
                cr_assert_eq(raw_send(&raw, &removal, sizeof removal, NULL, 0), 0);
                cr_assert_eq(call(&raw, PB_MSG_REMOVE_MEMORY, DIMM), -EBUSY);
                cr_assert(strstr(raw.text, "already") || strstr(raw.text, "still held by"), "%s", raw.text);
                raw_close(&raw);
                cr_assert(raw_open(&raw, setup.scene.broker.address, PB_AS_VMM) == 0);
        }
        scene_assert_served(&setup.scene);
        raw_close(&raw);
        setup_close(&setup);
}

static int unmap(struct raw *raw, uint32_t peer, uint64_t address, uint64_t length) {
        struct pb_message_unmap_peer message = {
                .header = { .type = PB_MSG_UNMAP_PEER, .size = sizeof message, .serial = 9 },
                .peer = peer,
                .address = address,
                .length = length,
        };

        return raw_call(raw, &message, sizeof message, -1, NULL);
}

static int unmap_nonsense(void *arg) {
        const struct setup *setup = arg;
        int uffd = test_uffd_open();
        uint64_t address;
        uint32_t peer;
        struct raw raw;

        CHILD_CHECK(raw_open(&raw, setup->scene.broker.address, PB_AS_VMM) == 0);
        CHILD_CHECK(raw_attach(&raw, uffd, &peer) == 0);
        address = (uintptr_t) raw.memory[0];
        CHILD_CHECK(unmap(&raw, UINT32_MAX, address, TEST_PAGE) == -ENOENT);
        CHILD_CHECK(unmap(&raw, peer, address, 0) == -EINVAL);
        CHILD_CHECK(unmap(&raw, peer, address + 1, TEST_PAGE) == -EINVAL);
        CHILD_CHECK(unmap(&raw, peer, address, TEST_PAGE / 2) == -EINVAL);
        CHILD_CHECK(unmap(&raw, peer, UINT64_MAX - TEST_PAGE + 1, TEST_PAGE) == -EINVAL);
        CHILD_CHECK(unmap(&raw, peer, address, TEST_PAGE) == 0); /* nothing is there */
        /* What it says is gone takes no room: many times as many as the table has. */
        for (unsigned i = 0; i < 600; i++) {
                CHILD_CHECK(raw_map_peer(&raw, peer, (void *) (address + i % 300 * TEST_PAGE), TEST_PAGE,
                                         i % 300 * TEST_PAGE) == 0);
                CHILD_CHECK(unmap(&raw, peer, address + i % 300 * TEST_PAGE, TEST_PAGE) == 0);
        }
        CHILD_CHECK(raw_map_peer(&raw, peer, raw.memory[0], 300 * TEST_PAGE, 0) == 0);
        CHILD_CHECK(test_image_expect(&setup->scene.image, 7, raw.memory[0] + 7 * TEST_PAGE));
        raw_close(&raw);
        return 0;
}

TEST(hotplug, unmap_peer_of_nonsense_is_refused_and_of_the_truth_makes_room) {
        struct setup setup;

        require_uffd();
        setup_open(&setup);
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, unmap_nonsense, &setup)), 0);
        scene_assert_served(&setup.scene);
        setup_close(&setup);
}
