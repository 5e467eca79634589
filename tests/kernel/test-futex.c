/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/futex.h"
#include "tests/kernel/kernel.h"

/* The presence map as both sides have it: the writer's mapping is older than the seal. */
struct map {
        int fd, readonly_fd;
        uint32_t *writer;
        const uint32_t *reader;
        uint32_t *other; /* a word of the reader's own */
};

static void map_make(struct map *map) {
        map->fd = memory_new(PAGE, PAGE, 0);
        map->writer = memory_map(map->fd, PAGE, PROT_READ | PROT_WRITE);
        cr_assert(memfd_seal(map->fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
        map->readonly_fd = memfd_reopen_readonly(map->fd);
        cr_assert(map->readonly_fd >= 0);
        map->reader = memory_map(map->readonly_fd, PAGE, PROT_READ);
        map->other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(map->other != MAP_FAILED);
}

static void map_done(struct map *map) {
        (void) munmap(map->writer, PAGE);
        (void) munmap((void *) (uintptr_t) map->reader, PAGE);
        (void) munmap(map->other, PAGE);
        (void) fd_close(map->fd);
        (void) fd_close(map->readonly_fd);
}

static long wait_bitset(void *arg) {
        const struct map *map = arg;

        return syscall(SYS_futex, map->reader, FUTEX_WAIT_BITSET, 0, NULL, NULL, 1u << 7);
}

static long wait_two(void *arg) {
        const struct map *map = arg;
        struct timespec deadline = clock_timespec(clock_now_us() + TEST_PATIENCE_US);

        return futex_wait2(&map->reader[0], 0, &map->other[0], 0, &deadline);
}

TEST(futex, read_only_sealed_mapping_can_be_waited_on) {
        struct blocked blocked;
        struct map map;

        map_make(&map);
        blocked_start(&blocked, wait_bitset, &map);
        cr_assert(blocked_sleeps(&blocked, SYS_futex));
        cr_assert_eq(futex_wake_bitset(map.writer, 1u << 6), 0, "another bit's waiter was woken");
        cr_assert_eq(futex_wake_bitset(map.writer, 1u << 7), 1);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 0);
        map_done(&map);
}

TEST(futex, waitv_on_two_mappings_is_woken_by_any_bitset) {
        struct blocked blocked;
        struct map map;

        map_make(&map);
        blocked_start(&blocked, wait_two, &map);
        cr_assert(blocked_sleeps(&blocked, SYS_futex_waitv));
        cr_assert_eq(futex_wake_bitset(map.writer, 1u << 31), 1);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 0, "woken by the first word");
        blocked_start(&blocked, wait_two, &map);
        cr_assert(blocked_sleeps(&blocked, SYS_futex_waitv));
        cr_assert_eq(futex_wake_all(map.other), 1);
        cr_assert(blocked_ends(&blocked));
        cr_assert_eq(blocked.result, 1, "woken by the second word");
        map_done(&map);
}

TEST(futex, wait_compares_the_whole_word) {
        struct map map;

        map_make(&map);
        map.writer[0] = 1;
        cr_assert(wait_bitset(&map) == -1 && errno == EAGAIN);
        map_done(&map);
}

/* Why a session's waiters sleep on a private word too: who can only read the shared one can move them away. */
TEST(futex, read_only_holder_can_move_waiters_away) {
        struct blocked blocked;
        struct map map;

        map_make(&map);
        blocked_start(&blocked, wait_two, &map);
        cr_assert(blocked_sleeps(&blocked, SYS_futex_waitv));
        cr_assert_eq(syscall(SYS_futex, map.reader, FUTEX_REQUEUE, 0, INT_MAX, &map.other[1], 0), 1);
        cr_assert_eq(futex_wake_all(map.writer), 0, "the wake should not have found the waiter any more");
        cr_assert_eq(futex_wake_all(map.other), 1, "the second word is the way out");
        cr_assert(blocked_ends(&blocked));
        map_done(&map);
}

TEST(futex, read_only_private_memory_cannot_be_waited_on) {
        const uint32_t *word = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        cr_assert(word != MAP_FAILED);
        cr_assert(syscall(SYS_futex, word, FUTEX_WAIT_BITSET, 0, NULL, NULL, 1) == -1 && errno == EFAULT);
        (void) munmap((void *) (uintptr_t) word, PAGE);
}
