/* SPDX-License-Identifier: MIT */
/* userfaultfd peers that lie, and peers that hold their own mm's lock. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/hostile/stuck.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

#define MEMORY_SIZE ((uint64_t) SCENE_PAGES * TEST_PAGE)

/* A child's report to its test. */
static uint32_t *shared_word(void) {
        uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert(word != MAP_FAILED);
        return word;
}

static bool word_is_set(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void word_set(uint32_t *word) {
        __atomic_store_n(word, 1, __ATOMIC_RELEASE);
}

TEST(peers, lies_about_mappings_are_refused_one_by_one) {
        char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint32_t peer, other_peer;
        struct scene scene;
        struct raw raw, other;
        int uffd, other_uffd;
        char *memory;

        require_uffd();
        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_VMM) == 0);
        cr_assert(raw_open(&other, scene.broker.address, PB_AS_VMM) == 0);
        uffd = test_uffd_open();
        other_uffd = test_uffd_open();
        cr_assert_eq(raw_attach(&raw, uffd, &peer), 0);
        cr_assert_eq(raw_attach(&other, other_uffd, &other_peer), 0);
        memory = raw.memory[0];
        cr_assert_eq(raw_map_peer(&raw, other_peer, memory, MEMORY_SIZE, 0), -ENOENT);
        cr_assert_eq(raw_map_peer(&raw, UINT32_MAX, memory, MEMORY_SIZE, 0), -ENOENT);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, MEMORY_SIZE, TEST_PAGE), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, MEMORY_SIZE + TEST_PAGE, 0), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, 0, 0), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory + 1, TEST_PAGE, 0), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, TEST_PAGE / 2, 0), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, TEST_PAGE, 1), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, memory, UINT64_MAX - TEST_PAGE + 1, 0), -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, (void *) (UINTPTR_MAX - TEST_PAGE + 1), TEST_PAGE,
                                  UINT64_MAX - TEST_PAGE + 1),
                     -EINVAL);
        cr_assert_eq(raw_map_peer(&raw, peer, NULL, TEST_PAGE, 0), -EINVAL);
        cr_assert(raw_map_peer(&raw, peer, (void *) 0x10000, TEST_PAGE, 0) < 0); /* nothing is there */
        cr_assert(raw_map_peer(&raw, peer, (void *) (UINTPTR_MAX - 4 * TEST_PAGE + 1), TEST_PAGE, 0) <
                  0);                                               /* the kernel's */
        cr_assert(raw_map_peer(&raw, peer, own, TEST_PAGE, 0) < 0); /* not shared */
        scene_assert_logged(&scene, "not a shared mapping of guest memory");
        scene_assert_served(&scene);
        /* And the truth is still welcome. */
        cr_assert_eq(raw_map_peer(&raw, peer, memory, MEMORY_SIZE, 0), 0);
        test_image_assert(&scene.image, 300, 4, memory + 300 * TEST_PAGE);
        raw_close(&raw);
        raw_close(&other);
        (void) close(uffd);
        (void) close(other_uffd);
        (void) munmap(own, 1 << 20);
        /* It lives on, and so would its userfaultfds: from here on only that they do no harm. */
        scene_assert_served(&scene);
        scene.n_descriptors += 2 * 2 + 2;
        scene.n_threads += 2;
        scene.broker.has_clients_at_stop = true;
        scene_close(&scene);
}

struct hostile_peer {
        struct scene *scene;
        uint32_t *there;
        struct stuck *stuck;
};

static int open_peer(const struct hostile_peer *hostile, struct raw *raw, int *ret_uffd, uint32_t *ret_peer) {
        int r = raw_open(raw, hostile->scene->broker.address, PB_AS_VMM);

        *ret_uffd = test_uffd_open();
        if (r == 0)
                r = raw_attach(raw, *ret_uffd, ret_peer);
        return r;
}

/* Runs `fn` as a child until it says that it is there, looks at the honest client meanwhile, and kills it. */
static void with_hostile_peer(struct scene *scene, int (*fn)(void *arg), const char *log) {
        struct hostile_peer hostile = { .scene = scene, .there = shared_word() };
        pid_t pid = test_child_start((uid_t) -1, fn, &hostile);

        cr_assert(EVENTUALLY(word_is_set(hostile.there)));
        scene_assert_served(scene);
        if (log)
                scene_assert_logged(scene, log);
        cr_assert(test_thread_state(pid, pid) != 'Z', "the hostile peer has ended by itself");
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        (void) munmap(hostile.there, 4096);
        scene_assert_recovered(scene);
}

static int clear_nonblock(void *arg) {
        struct hostile_peer *hostile = arg;
        uint32_t peer;
        struct raw raw;
        int uffd;

        CHILD_CHECK(open_peer(hostile, &raw, &uffd, &peer) == 0);
        CHILD_CHECK(raw_map_peer(&raw, peer, raw.memory[0], MEMORY_SIZE, 0) == 0);
        CHILD_CHECK(fcntl(uffd, F_SETFL, 0) == 0);
        word_set(hostile->there);
        (void) *(volatile char *) &raw.memory[0][SCENE_LAST_PAGE * TEST_PAGE]; /* nobody comes */
        return pause();
}

TEST(peers, that_clear_nonblock_are_dropped) {
        struct scene scene;

        require_uffd();
        SCENE_OPEN(&scene);
        with_hostile_peer(&scene, clear_nonblock, "made the userfaultfd blocking");
        scene_close(&scene);
}

static int touch_own_range(void *arg) {
        struct hostile_peer *hostile = arg;
        char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct uffdio_register reg = { .range = { (uintptr_t) own, 1 << 20 }, .mode = UFFDIO_REGISTER_MODE_MISSING };
        uint32_t peer;
        struct raw raw;
        int uffd;

        CHILD_CHECK(open_peer(hostile, &raw, &uffd, &peer) == 0);
        CHILD_CHECK(raw_map_peer(&raw, peer, raw.memory[0], MEMORY_SIZE, 0) == 0);
        CHILD_CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        CHILD_CHECK(test_image_expect(&hostile->scene->image, 77, raw.memory[0] + 77 * TEST_PAGE));
        word_set(hostile->there);
        return own[5]; /* a fault that the broker knows nothing of */
}

TEST(peers, ranges_registered_behind_the_brokers_back_hang_their_owner_only) {
        struct scene scene;

        require_uffd();
        SCENE_OPEN(&scene);
        with_hostile_peer(&scene, touch_own_range, NULL);
        scene_close(&scene);
}

struct toucher {
        char *memory;
        unsigned seed;
};

static void *touch_all(void *arg) {
        struct toucher *toucher = arg;

        for (uint64_t page = 0;; page = (page + 101) % SCENE_PAGES)
                (void) *(volatile char *) &toucher->memory[page * TEST_PAGE];
        return NULL;
}

static int change_mapping(void *arg) {
        struct hostile_peer *hostile = arg;
        struct toucher toucher = {};
        pthread_t thread;
        uint32_t peer;
        struct raw raw;
        int uffd;

        CHILD_CHECK(open_peer(hostile, &raw, &uffd, &peer) == 0);
        toucher.memory = raw.memory[0];
        CHILD_CHECK(raw_map_peer(&raw, peer, raw.memory[0], MEMORY_SIZE, 0) == 0);
        CHILD_CHECK(pthread_create(&thread, NULL, touch_all, &toucher) == 0);
        for (unsigned i = 0;; i++) {
                char *part = raw.memory[0] + (i % 16) * (MEMORY_SIZE / 16);
                void *mapped;

                if (i % 2)
                        (void) mprotect(part, MEMORY_SIZE / 16, i % 4 == 1 ? PROT_READ : PROT_READ | PROT_WRITE);
                mapped = mmap(part, MEMORY_SIZE / 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, raw.guest[0],
                              (off_t) (part - raw.memory[0]));
                CHILD_CHECK(mapped == part);
                (void) raw_map_peer(&raw, peer, part, MEMORY_SIZE / 16, (uint64_t) (part - raw.memory[0]));
                if (i == 64)
                        word_set(hostile->there);
        }
}

TEST(peers, that_change_their_mappings_while_they_are_served_harm_themselves_only) {
        struct scene scene;

        require_uffd();
        SCENE_OPEN(&scene);
        with_hostile_peer(&scene, change_mapping, NULL);
        scene_close(&scene);
}

/* UFFDIO_API by the sender, with events whose reading makes descriptors in the reader. */
static int fork_under_events(void *arg) {
        struct hostile_peer *hostile = arg;
        char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int uffd = test_uffd_open();
        struct raw raw;

        CHILD_CHECK(raw_open(&raw, hostile->scene->broker.address, PB_AS_VMM) == 0);
        CHILD_CHECK(test_uffd_enable(uffd, UFFD_FEATURE_EVENT_FORK) == 0);
        struct uffdio_register reg = { .range = { (uintptr_t) own, 1 << 20 }, .mode = UFFDIO_REGISTER_MODE_MISSING };

        CHILD_CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        CHILD_CHECK(raw_attach(&raw, uffd, NULL) == -EINVAL);
        word_set(hostile->there);
        /* Each waits until its event is read: by nobody. */
        for (unsigned i = 0; i < 100; i++) {
                pid_t pid = fork();

                if (pid == 0)
                        _exit(0);
                (void) waitpid(pid, NULL, 0);
        }
        return pause();
}

TEST(peers, whose_api_is_set_by_their_owner_are_not_read) {
        struct scene scene;
        struct hostile_peer hostile = { .scene = &scene };
        pid_t pid;
        int before;

        require_root();
        require_uffd();
        SCENE_OPEN(&scene);
        before = test_descriptors_count(scene.broker.pid);
        hostile.there = shared_word();
        pid = test_child_start((uid_t) -1, fork_under_events, &hostile);
        cr_assert(EVENTUALLY(word_is_set(hostile.there)));
        scene_assert_logged(&scene, "UFFDIO_API failed");
        scene_assert_served(&scene);
        scene_assert_served(&scene);
        cr_assert(test_descriptors_count(scene.broker.pid) < before + 16, "the broker has %d descriptors, %d before",
                  test_descriptors_count(scene.broker.pid), before);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        (void) munmap(hostile.there, 4096);
        scene_close(&scene);
}

static void *replace(void *arg) {
        /* The old mapping's dirty page is written back first, under the mm's lock: to a server that never answers. */
        (void) mmap(arg, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        return NULL;
}

static int hold_mm_lock(void *arg) {
        struct hostile_peer *hostile = arg;
        struct pb_message_map_peer map = { .header = { .type = PB_MSG_MAP_PEER, .size = sizeof map, .serial = 8 },
                                           .length = MEMORY_SIZE };
        int file = open(hostile->stuck->path, O_RDWR | O_CLOEXEC), uffd;
        char *dirty = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        pthread_t thread;
        uint32_t peer;
        struct raw raw;

        CHILD_CHECK(file >= 0 && dirty != MAP_FAILED);
        CHILD_CHECK(pread(file, &(char) { 0 }, 1, 0) == 1); /* the kernel learns its size */
        dirty[0] = 1;
        CHILD_CHECK(open_peer(hostile, &raw, &uffd, &peer) == 0);
        map.peer = peer;
        map.address = (uintptr_t) raw.memory[0];
        CHILD_CHECK(pthread_create(&thread, NULL, replace, dirty) == 0);
        while (!word_is_set(hostile->stuck->held))
                (void) 0;
        /* Registering needs the lock. So does the last close of a userfaultfd, of which the broker now has some. */
        CHILD_CHECK(raw_send(&raw, &map, sizeof map, NULL, 0) == 0);
        word_set(hostile->there);
        return pause();
}

TEST(peers, that_hold_their_mm_lock_for_ever_stop_nobody) {
        struct scene scene;
        struct stuck stuck;
        struct hostile_peer hostile = { .scene = &scene, .stuck = &stuck };
        struct pb_message_stats_reply stats;
        uint32_t peer;
        struct raw raw;
        pid_t pid;
        int uffd;

        require_uffd();
        require_fuse();
        stuck_start(&stuck);
        SCENE_OPEN(&scene);
        hostile.there = shared_word();
        pid = test_child_start((uid_t) -1, hold_mm_lock, &hostile);
        cr_assert(EVENTUALLY(word_is_set(hostile.there)));
        scene_assert_served(&scene);
        /* Another peer is attached, registered and served. */
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_VMM) == 0);
        uffd = test_uffd_open();
        cr_assert_eq(raw_attach(&raw, uffd, &peer), 0);
        cr_assert_eq(raw_map_peer(&raw, peer, raw.memory[0], MEMORY_SIZE, 0), 0);
        test_image_assert(&scene.image, 555, 20, raw.memory[0] + 555 * TEST_PAGE);
        cr_assert(raw_stats(&raw, &stats) == 0 && stats.faults_peer > 0);
        scene_assert_served(&scene);
        (void) kill(pid, SIGKILL);
        stuck_stop(&stuck);
        (void) test_child_wait(pid);
        struct pb_message_detach_peer detach = {
                .header = { .type = PB_MSG_DETACH_PEER, .size = sizeof detach, .serial = 5 }, .peer = peer
        };

        cr_assert_eq(raw_call(&raw, &detach, sizeof detach, -1, NULL), 0);
        raw_close(&raw);
        (void) close(uffd);
        (void) munmap(hostile.there, 4096);
        scene_close(&scene);
}
