/* SPDX-License-Identifier: MIT */
#include "tests/hostile/scene.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/lib/descriptors.h"
#include "tests/lib/process.h"

/* The honest client's own speed, so that it neither takes the machine nor runs out of absent pages. */
#define HONEST_PAUSE_NS 300000
/* Several of its rounds, and no more than a moment of them. */
#define HONEST_ROUNDS 20u
/* What the C library keeps of freed blocks, KiB; that it does not grow for ever is a test of its own. */
#define RSS_SLACK_KIB (TEST_SANITIZED ? 262144 : 12288)

struct honest {
        struct test_image image;
        char address[96];
        uint64_t next;     /* which page: SCENE_STRIDE times this */
        uint64_t since_us; /* the call under way began; 0: none */
        uint64_t worst_us;
        uint64_t n_checked;
        uint64_t wrong_page; /* TEST_IMAGE_NONE: none */
        int error;
        char text[256];
        uint32_t connected;
        uint32_t stop;
};

static uint64_t load(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void honest_fail(struct honest *honest, pb_client *client, int error) {
        (void) snprintf(honest->text, sizeof honest->text, "%s", client ? pb_explain(client) : "pb_connect");
        __atomic_store_n(&honest->error, error, __ATOMIC_RELEASE);
}

/* One page, or eight scattered ones in one call. */
static int honest_ask(struct honest *honest, pb_client *client, uint64_t round) {
        uint64_t pages[8];
        unsigned n = round % 8 == 7 ? 8 : 1;
        struct pb_range ranges[8];
        struct pb_region region;
        int r = pb_get_region(client, 0, &region);

        for (unsigned i = 0; i < n; i++) {
                pages[i] = honest->next++ * SCENE_STRIDE % honest->image.spec.n_pages;
                ranges[i] = (struct pb_range) { .gpa = region.gpa + pages[i] * TEST_PAGE,
                                                .len = TEST_PAGE,
                                                .intent = PB_READ };
        }
        if (r == 0)
                r = n == 1 ? pb_ensure(client, ranges[0].gpa, TEST_PAGE, PB_READ) : pb_ensurev(client, ranges, n);
        for (unsigned i = 0; i < n && r == 0; i++)
                if (!test_image_expect(&honest->image, pages[i], (const char *) region.addr + pages[i] * TEST_PAGE)) {
                        honest->wrong_page = pages[i];
                        r = -EBADMSG;
                }
        return r;
}

static int honest_main(void *arg) {
        struct honest *honest = arg;
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .name = "honest" };
        pb_client *client = NULL;
        int r = pb_connect(&client, honest->address, &options);

        for (uint64_t round = 0; r == 0 && !__atomic_load_n(&honest->stop, __ATOMIC_ACQUIRE); round++) {
                uint64_t begin = clock_now_us(), took;

                __atomic_store_n(&honest->since_us, begin, __ATOMIC_RELEASE);
                r = honest_ask(honest, client, round);
                took = clock_now_us() - begin;
                __atomic_store_n(&honest->since_us, 0, __ATOMIC_RELEASE);
                if (took > honest->worst_us)
                        __atomic_store_n(&honest->worst_us, took, __ATOMIC_RELEASE);
                if (r == 0)
                        (void) __atomic_fetch_add(&honest->n_checked, 1, __ATOMIC_ACQ_REL);
                (void) nanosleep(&(struct timespec) { .tv_nsec = HONEST_PAUSE_NS }, NULL);
        }
        if (r < 0)
                honest_fail(honest, client, r);
        (void) pb_disconnect(client);
        return r < 0;
}

/* The kernel's workers for io_uring come and go as they like. */
static bool is_own_thread(pid_t pid, const char *tid) {
        _cleanup_fclose_ FILE *f = NULL;
        char path[320], name[32] = "";

        (void) snprintf(path, sizeof path, "/proc/%d/task/%s/comm", (int) pid, tid);
        f = fopen(path, "re");
        return f && fgets(name, sizeof name, f) && strncmp(name, "iou-", 4) != 0;
}

static unsigned count_threads(pid_t pid) {
        char path[64];
        unsigned n = 0;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%d/task", (int) pid);
        dir = opendir(path);
        for (struct dirent *entry; dir && (entry = readdir(dir));)
                n += is_own_thread(pid, entry->d_name);
        if (dir)
                (void) closedir(dir);
        return n;
}

static void assert_healthy(struct scene *scene) {
        struct honest *honest = scene->honest;
        uint64_t since = load(&honest->since_us), now = clock_now_us();
        int error = __atomic_load_n(&honest->error, __ATOMIC_ACQUIRE);

        cr_assert(!test_broker_is_dead(&scene->broker), "the broker has ended");
        cr_assert(error == 0, "the honest client got %s: %s (page %lld)", strerror(-error), honest->text,
                  (long long) honest->wrong_page);
        cr_assert(load(&honest->worst_us) <= scene->delay_max_us, "the honest client waited %llu us",
                  (unsigned long long) load(&honest->worst_us));
        cr_assert(since == 0 || now < since + scene->delay_max_us, "the honest client has been waiting for %llu us",
                  (unsigned long long) (now - since));
}

void scene_assert_served(struct scene *scene) {
        uint64_t before = load(&scene->honest->n_checked);

        while (load(&scene->honest->n_checked) < before + HONEST_ROUNDS) {
                assert_healthy(scene);
                (void) usleep(500);
        }
        assert_healthy(scene);
}

void scene_assert_logged(struct scene *scene, const char *text) {
        cr_assert(test_broker_will_log(&scene->broker, text), "the log does not say: %s", text);
}

void scene_open_with(struct scene *scene, const struct test_image *image, const char *const args[]) {
        struct honest *honest = mmap(NULL, sizeof *honest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert(honest != MAP_FAILED);
        test_broker_start(&scene->broker, &(struct test_broker_options) { .args = args });
        honest->image = *image;
        honest->wrong_page = TEST_IMAGE_NONE;
        (void) snprintf(honest->address, sizeof honest->address, "%s", scene->broker.address);
        scene->honest = honest;
        scene->delay_max_us = SCENE_DELAY_MAX_US;
        scene->honest_pid = test_child_start((uid_t) -1, honest_main, honest);
        cr_assert(EVENTUALLY(load(&honest->n_checked) > HONEST_ROUNDS || honest->error));
        assert_healthy(scene);
        scene->rss_kib = test_broker_rss_kib(&scene->broker);
        scene->n_descriptors = test_descriptors_count(scene->broker.pid);
        scene->n_threads = count_threads(scene->broker.pid);
}

void scene_open(struct scene *scene, const char *const args[]) {
        const char *all[32] = { "--fill=off" };
        unsigned n = 1;

        test_image_make(&scene->image,
                        &(struct test_image_spec) { .seed = 11, .n_pages = SCENE_PAGES, .data_ppm = 100000 });
        all[n++] = TEST_MEMORY("ram0", &scene->image);
        while (*args && n < ELEMENTS(all) - 1)
                all[n++] = *args++;
        scene_open_with(scene, &scene->image, all);
}

void scene_assert_recovered(struct scene *scene) {
        long rss;

        if (!EVENTUALLY(test_descriptors_count(scene->broker.pid) <= scene->n_descriptors)) {
                test_descriptors_show(scene->broker.pid);
                cr_assert_fail("the broker has %d descriptors open, %d before",
                               test_descriptors_count(scene->broker.pid), scene->n_descriptors);
        }
        cr_assert(EVENTUALLY(count_threads(scene->broker.pid) <= scene->n_threads),
                  "the broker has %u threads, %u before", count_threads(scene->broker.pid), scene->n_threads);
        rss = test_broker_rss_kib(&scene->broker);
        cr_assert(rss <= scene->rss_kib + RSS_SLACK_KIB, "the broker has %ld KiB of its own, %ld before", rss,
                  scene->rss_kib);
}

void scene_close(struct scene *scene) {
        scene_assert_served(scene);
        scene_assert_recovered(scene);
        __atomic_store_n(&scene->honest->stop, 1, __ATOMIC_RELEASE);
        cr_assert_eq(test_child_wait(scene->honest_pid), 0);
        assert_healthy(scene);
        (void) munmap(scene->honest, sizeof *scene->honest);
        test_broker_stop(&scene->broker);
        test_image_unlink(&scene->image);
}
