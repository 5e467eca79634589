/* SPDX-License-Identifier: MIT */
/*
 * A program that knows nothing of Pagebroker, under pagebroker-run: it reads, writes and maps on while brokers die, and sees
 * the image, and what it wrote.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/integration/basic/support.h"
#include "tests/integration/preload/run-target.h"
#include "tests/integration/restart/kill.h"
#include "tests/integration/restart/walk.h"

#define STEP 64u /* pages for one broker's life */

static const char walker[] = TEST_BUILD_ROOT "/tests/integration/restart/walker";

static struct test_image image;

struct run {
        char socket[128];
        char walk[96]; /* the file's path */
};

static struct walk *walk_new(struct run *run) {
        struct walk *walk;
        int fd;

        (void) snprintf(run->walk, sizeof run->walk, "%s/walk-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        fd = mkstemp(run->walk);
        cr_assert(fd >= 0 && ftruncate(fd, sizeof *walk) == 0);
        walk = mmap(NULL, sizeof *walk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cr_assert(walk != MAP_FAILED);
        (void) close(fd);
        return walk;
}

static int run_walker(void *arg) {
        const struct run *run = arg;
        const char *const argv[] = { pagebroker_run, preload_option, run->socket, "--", walker,
                                     "{memory0}", "{memory0.size}", image.path, run->walk, NULL };

        (void) execv(argv[0], (char *const *) argv);
        return 121;
}

TEST(program, goes_on_over_random_kills) {
        const unsigned n_kills = 4 * kill_count(), n_pages = (n_kills + 1) * STEP;
        struct test_broker broker;
        struct walk *walk;
        struct run run;
        uint64_t state = 11;
        pid_t pid;

        require_uffd();
        test_image_make(&image, &(struct test_image_spec) { .n_pages = n_pages, .seed = 361, .data_ppm = 800000 });
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { TEST_MEMORY("ram0", &image), "--fill=off",
                                                                           "--fault-around=4K", NULL },
                                   });
        walk = walk_new(&run);
        (void) snprintf(run.socket, sizeof run.socket, "--socket=%s", broker.address);
        pid = test_child_start((uid_t) -1, run_walker, &run);
        /* A program that connects just when a broker dies is refused, as by any server. */
        atomic_store(&walk->until, 1);
        cr_assert(EVENTUALLY(atomic_load(&walk->pages) == 1));
        for (unsigned i = 1; i <= n_kills; i++) {
                test_image_make_cold(&image);
                atomic_store(&walk->until, i * STEP);
                (void) usleep((useconds_t) (next_random(&state) % 2000));
                test_broker_kill_served(&broker);
                cr_assert(EVENTUALLY(atomic_load(&walk->pages) == i * STEP), "%u of %u", atomic_load(&walk->pages), i * STEP);
                test_broker_wait_next(&broker);
        }
        atomic_store(&walk->until, n_pages);
        cr_assert_eq(test_child_wait(pid), 0);
        (void) munmap(walk, sizeof *walk);
        (void) unlink(run.walk);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
