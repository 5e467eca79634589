/* SPDX-License-Identifier: MIT */
/* A source's helper decides what the bytes are, and nothing else: docs/SECURITY.md, "Sources on the network". */
#include <errno.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"

#define PAGES 4096u /* of the helper's source */

/* The helper's memory is the broker's second one. Its reads are given up at once. */
static void hostile_open(struct scene *scene, struct raw *raw, const char *how) {
        char memory[64];

        (void) snprintf(memory, sizeof memory, "--memory=lies,source=nbd:%s", how);
        test_broker_libexec = TEST_BUILD_ROOT "/tests/hostile/helper";
        SCENE_OPEN(scene, memory, "--source-timeout=0.05", "--source-retries=1", "--source-deadline=1",
                   "--heal-interval=0");
        cr_assert_eq(raw_open(raw, scene->broker.address, PB_AS_VMM), 0);
}

static void hostile_close(struct scene *scene, struct raw *raw) {
        raw_close(raw);
        scene_close(scene);
}

static struct raw_push want_lies(uint64_t page, uint64_t n, uint32_t intent) {
        struct raw_push push = raw_want(page, n);

        push.ranges[0].memory = 1;
        push.ranges[0].intent = intent;
        return push;
}

/* All of it, in pieces of several slices; each ends, somehow. */
static void ask_for_lies(struct scene *scene, struct raw *raw, bool must_fail) {
        for (unsigned i = 0; i < 32; i++) {
                struct raw_push push = want_lies(i * (PAGES / 32), PAGES / 32, PB_INTENT_READ);

                raw_submit(raw, i, &push);
        }
        scene_assert_served(scene);
        for (unsigned i = 0; i < 32; i++) {
                int r = raw_wait_outcome(raw, i);

                cr_assert(r == -EIO || (r == 0 && !must_fail), "piece %u: %d", i, r);
        }
        scene_assert_served(scene);
}

TEST(helper, that_writes_nonsense_everywhere_harms_its_own_memory_only) {
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, "nonsense");
        for (unsigned i = 0; i < 3; i++)
                ask_for_lies(&scene, &raw, false);
        hostile_close(&scene, &raw);
}

TEST(helper, that_never_answers_is_an_error_for_its_own_pages) {
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, "silence");
        ask_for_lies(&scene, &raw, true);
        hostile_close(&scene, &raw);
}

/* When all of its memory is there the broker says so, and looks for its end. */
TEST(helper, that_talks_without_an_end_holds_up_nobody) {
        struct raw_push all = want_lies(0, PAGES, PB_INTENT_OVERWRITE);
        struct scene scene;
        struct raw raw;

        hostile_open(&scene, &raw, "flood");
        ask_for_lies(&scene, &raw, true);
        cr_assert_eq(raw_request(&raw, 40, &all), 0);
        for (unsigned i = 0; i < 3; i++)
                scene_assert_served(&scene);
        hostile_close(&scene, &raw);
}
