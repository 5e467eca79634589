/* SPDX-License-Identifier: MIT */
/* Who asks for more than the role may. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

TEST(roles, are_granted_by_uid_only) {
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene, "--allow=device:0");
        cr_assert_eq(raw_open(&raw, scene.broker.address, PB_AS_VMM), -EACCES);
        scene_assert_logged(&scene, "uid 0 may not connect as vmm");
        cr_assert_eq(raw_open(&raw, scene.broker.address, PB_AS_OBSERVER), -EACCES);
        cr_assert_eq(raw_open(&raw, scene.broker.address, PB_AS_DEVICE_RO), -EACCES);
        scene_close(&scene);
}

/* In a child under another uid. */
static int be_read_only(void *arg) {
        struct pb_message_set_fill fill = { .header = { .type = PB_MSG_SET_FILL, .size = sizeof fill, .serial = 4 },
                                            .on = 1 };
        struct raw_push write = raw_want(3, 1), discard = raw_want(3, 1), read = raw_want(3, 1);
        struct scene *scene = arg;
        char path[64], byte;
        struct raw raw;

        CHILD_CHECK(raw_open(&raw, scene->broker.address, PB_AS_VMM) == -EACCES);
        CHILD_CHECK(raw_open(&raw, scene->broker.address, PB_AS_DEVICE) == -EACCES);
        CHILD_CHECK(raw_open(&raw, scene->broker.address, PB_AS_DEVICE_RO) == 0);
        CHILD_CHECK(raw.uffd_device < 0);
        write.ranges[0].intent = PB_INTENT_WRITE;
        CHILD_CHECK(raw_request(&raw, 0, &write) == -EACCES);
        write.ranges[0].intent = PB_INTENT_OVERWRITE;
        CHILD_CHECK(raw_request(&raw, 1, &write) == -EACCES);
        discard.op = PB_SLOT_DISCARD;
        discard.ranges[0].intent = 0;
        CHILD_CHECK(raw_request(&raw, 2, &discard) == -EACCES);
        CHILD_CHECK(raw_request(&raw, 3, &read) == 0);
        CHILD_CHECK(test_image_expect(&scene->image, 3, raw.memory[0] + 3 * TEST_PAGE));
        /* No way to the bytes but through the broker. */
        CHILD_CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, raw.guest[0], 0) == MAP_FAILED);
        CHILD_CHECK(pwrite(raw.guest[0], "x", 1, 0) < 0);
        CHILD_CHECK(fallocate(raw.guest[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
        CHILD_CHECK(pread(raw.guest[0], &byte, 1, 0) == 1);
        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", raw.guest[0]);
        CHILD_CHECK(open(path, O_RDWR) < 0 && open(path, O_RDONLY) < 0);
        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", raw.map[0]);
        CHILD_CHECK(open(path, O_RDWR) < 0);
        CHILD_CHECK(raw_call(&raw, &fill, sizeof fill, -1, NULL) == -EACCES);
        raw_close(&raw);
        return 0;
}

TEST(roles, reader_cannot_write_discard_attach_or_reopen) {
        struct scene scene;

        require_other_uid();
        SCENE_OPEN(&scene, "--allow=device:0", "--allow=device-ro:65534");
        cr_assert_eq(test_run_as(TEST_OTHER_UID, be_read_only, &scene), 0);
        scene_assert_logged(&scene, "uid 65534 may not connect as vmm");
        scene_close(&scene);
}

/* Its descriptor is open for writing (SECURITY.md says why); the seals are what stops a client. */
TEST(roles, session_state_is_written_by_nobody_but_the_broker) {
        const size_t size = sizeof(struct pb_session_state);
        struct pb_session_state before;
        struct scene scene;
        struct raw raw;
        char path[64];
        void *map;
        int again;

        SCENE_OPEN(&scene);
        cr_assert_eq(raw_open(&raw, scene.broker.address, PB_AS_DEVICE), 0);
        memcpy(&before, raw.state, size);
        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", raw.state_fd);
        again = open(path, O_RDWR | O_CLOEXEC);
        for (unsigned i = 0; i < 2; i++) {
                int fd = i == 0 ? raw.state_fd : again;

                cr_assert(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
                cr_assert_eq(pwrite(fd, "x", 1, 0), -1);
                cr_assert_eq(ftruncate(fd, 0), -1);
                cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t) size), -1);
                cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
                map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
                cr_assert(map != MAP_FAILED);
                cr_assert_eq(mprotect(map, size, PROT_READ | PROT_WRITE), -1);
                cr_assert_eq(madvise(map, size, MADV_REMOVE), -1);
                (void) munmap(map, size);
        }
        cr_assert_eq(memcmp((const void *) raw.state->outcome, before.outcome, sizeof before.outcome), 0);
        (void) close(again);
        raw_close(&raw);
        scene_close(&scene);
}

TEST(roles, observer_gets_counters_and_nothing_else) {
        struct pb_message_explain explain = { .header = {
                                                      .type = PB_MSG_EXPLAIN, .size = sizeof explain, .serial = 4 } };
        struct pb_message_stats_reply stats;
        int uffd = test_uffd_open();
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_OBSERVER) == 0);
        cr_assert(!raw.memory[0] && !raw.ring && raw.uffd_device < 0);
        cr_assert(raw_stats(&raw, &stats) == 0 && stats.header.type == PB_MSG_STATS_REPLY &&
                  stats.pages_total == SCENE_PAGES);
        cr_assert_eq(raw_call(&raw, &explain, sizeof explain, -1, NULL), -EACCES);
        cr_assert_eq(raw_attach(&raw, uffd, NULL), -EACCES);
        raw_close(&raw);
        (void) close(uffd);
        scene_close(&scene);
}

TEST(roles, device_cannot_switch_the_fill_nor_ask_for_pages_that_are_not_there) {
        struct pb_message_set_fill fill = { .header = { .type = PB_MSG_SET_FILL, .size = sizeof fill, .serial = 4 },
                                            .on = 1 };
        struct pb_message_explain explain = { .header = {
                                                      .type = PB_MSG_EXPLAIN, .size = sizeof explain, .serial = 4 } };
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        cr_assert_eq(raw_call(&raw, &fill, sizeof fill, -1, NULL), -EACCES);
        cr_assert_eq(raw_call(&raw, &explain, sizeof explain, -1, NULL), 0);
        explain.memory = UINT32_MAX;
        cr_assert_eq(raw_call(&raw, &explain, sizeof explain, -1, NULL), -EINVAL);
        explain.memory = 0;
        explain.page = UINT64_MAX;
        cr_assert_eq(raw_call(&raw, &explain, sizeof explain, -1, NULL), -EINVAL);
        raw_close(&raw);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_VMM) == 0);
        fill.on = 2;
        cr_assert_eq(raw_call(&raw, &fill, sizeof fill, -1, NULL), -EINVAL);
        raw_close(&raw);
        scene_close(&scene);
}
