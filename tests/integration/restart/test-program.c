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
static const char target[] = TEST_BUILD_ROOT "/tests/integration/preload/preload-target";

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

/* ---- while it gets its memory ---- */

/*
 * The broker dies at each place where it could have done one half of what the library asks for, and its successor there too.
 * `skip`: at the first so many times that one comes there it does not.
 */
static void maps_wherever_brokers_die(int skip, const char *action) {
        static const struct {
                const char *name;
                bool answered; /* the library knows that it was done, and does not ask again */
        } points[] = {
                { .name = "attach-kept" }, { .name = "attach-entered" }, { .name = "attached", .answered = true },
                { .name = "map-entered" }, { .name = "map-registered" }, { .name = "mapped", .answered = true },
        };
        const unsigned n = kill_count() * (sizeof points / sizeof points[0]);
        struct kill_order *order = kill_order_new();
        struct test_broker broker;
        char socket[128], touch[32];

        test_image_make(&image, &(struct test_image_spec) { .n_pages = n + 1, .seed = 362 });
        test_broker_start(&broker, &(struct test_broker_options) {
                                           .supervised = true,
                                           .args = (const char *const[]) { TEST_MEMORY("ram0", &image), "--fill=off",
                                                                           "--fault-around=4K", NULL },
                                   });
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker.address);
        for (unsigned i = 0; i < n; i++) {
                unsigned p = i % (sizeof points / sizeof points[0]), round = i / (sizeof points / sizeof points[0]);
                int status, n_deaths = points[p].answered ? 1 : 1 + (int) round % 2;
                const char *point = points[p].name;

                /* A page each, so that it is never complete: then nothing would be registered. */
                (void) snprintf(touch, sizeof touch, "touch:%u", i);
                kill_order_give(order, point, skip);
                atomic_store(&order->budget, n_deaths);
                status = target_run_command((const char *const[]) { pagebroker_run, preload_option, socket, "--", target,
                                                                    "{memory0}", "{memory0.size}", image.path, "map", action,
                                                                    touch, NULL },
                                            0);
                cr_assert_eq(status, 0, "%s: the target ended with %d: %s", point, status, target_said);
                cr_assert(kill_order_is_done(order), "nobody died at %s", point);
                for (int death = 0; death < n_deaths; death++)
                        test_broker_wait_next(&broker);
        }
        test_broker_stop(&broker);
        test_image_unlink(&image);
        kill_order_free(order);
}

TEST(program, maps_wherever_the_broker_dies) {
        require_uffd();
        maps_wherever_brokers_die(0, "open");
}

/* A userfaultfd of its own for the child, and what it inherits registered, before fork() returns in it. */
TEST(program, forks_wherever_the_broker_dies) {
        require_uffd();
        maps_wherever_brokers_die(1, "fork-nothing");
}
