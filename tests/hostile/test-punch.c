/* SPDX-License-Identifier: MIT */
/* Holes punched under the broker. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"

#define TARGET_SIZE (8 * HUGE_2M)
#define TARGET_PAGES (TARGET_SIZE / TEST_PAGE)

struct puncher {
        struct raw *raw;
        bool stop, drained;
};

static void *punch(void *arg) {
        struct puncher *puncher = arg;

        while (!__atomic_load_n(&puncher->stop, __ATOMIC_RELAXED))
                (void) fallocate(puncher->raw->guest[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                 (off_t) TARGET_SIZE);
        return NULL;
}

/* Takes every huge page that the pool gets back. */
static void *drain(void *arg) {
        struct puncher *puncher = arg;
        size_t size = 1ull << 36, done = 0;
        char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);

        while (pages != MAP_FAILED && !__atomic_load_n(&puncher->stop, __ATOMIC_RELAXED)) {
                if (done < size && madvise(pages + done, HUGE_2M, MADV_POPULATE_WRITE) == 0)
                        done += HUGE_2M;
                else
                        __atomic_store_n(&puncher->drained, true, __ATOMIC_RELEASE);
        }
        if (pages != MAP_FAILED)
                (void) munmap(pages, size);
        return NULL;
}

/* Asks for every page of memory 1, overwriting half of them. Returns how many requests failed, all with -ENOMEM. */
static unsigned ask_for_all(struct scene *scene, struct raw *raw) {
        unsigned n_failed = 0;

        for (uint64_t page = 0; page < TARGET_PAGES; page += 128) {
                struct raw_push push = raw_want(page, 128);
                int r;

                push.ranges[0].memory = 1;
                push.ranges[0].intent = page % 256 ? PB_INTENT_OVERWRITE : PB_INTENT_READ;
                r = raw_request(raw, (uint32_t) (page / 128), &push);
                cr_assert(r == 0 || r == -ENOMEM, "page %llu: %s", (unsigned long long) page, strerror(-r));
                n_failed += r < 0;
        }
        cr_assert(!test_broker_is_dead(&scene->broker));
        return n_failed;
}

static void punch_while_asked(const char *option, bool drained) {
        struct test_image image;
        struct puncher puncher = {};
        pthread_t threads[2];
        struct scene scene;
        unsigned n_failed;
        struct raw raw;

        test_image_make(&image, &(struct test_image_spec) { .seed = 8, .n_pages = TARGET_PAGES, .data_ppm = 500000 });
        SCENE_OPEN(&scene, test_memory("target", &image, option));
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        puncher.raw = &raw;
        /* The broker has reserved its huge pages: what is punched out goes back to the pool, and others take it. */
        if (drained) {
                cr_assert(pthread_create(&threads[1], NULL, drain, &puncher) == 0);
                cr_assert(EVENTUALLY(__atomic_load_n(&puncher.drained, __ATOMIC_ACQUIRE)));
        }
        cr_assert(pthread_create(&threads[0], NULL, punch, &puncher) == 0);
        n_failed = ask_for_all(&scene, &raw);
        scene_assert_served(&scene);
        __atomic_store_n(&puncher.stop, true, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < (drained ? 2u : 1u); i++)
                (void) pthread_join(threads[i], NULL);
        cr_assert(drained == (n_failed > 0), "%u requests failed", n_failed);
        raw_close(&raw);
        scene_close(&scene);
        test_image_unlink(&image);
}

TEST(punch, holes_in_a_loop_under_small_pages_stop_nobody) {
        punch_while_asked("", false);
}

TEST(punch, holes_in_a_loop_with_the_pool_of_huge_pages_drained_are_errors) {
        require_hugepages(TARGET_SIZE / HUGE_2M, HUGE_2M);
        punch_while_asked(",huge=2M", true);
}
