/* SPDX-License-Identifier: MIT */
#include "tests/kernel/kernel.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"

int memory_new(size_t size, size_t backing_size, int seals) {
        int fd = memfd_new("kernel-test", size, backing_size), r;

        cr_assert(fd >= 0, "memfd: %s", strerror(-fd));
        r = seals ? memfd_seal(fd, seals) : 0;
        cr_assert(r == 0, "seals: %s", strerror(-r));
        return fd;
}

void *memory_map(int fd, size_t size, int prot) {
        void *addr = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

        cr_assert(addr != MAP_FAILED, "mmap: %s", strerror(errno));
        return addr;
}

static void *blocked_thread(void *arg) {
        struct blocked *blocked = arg;

        __atomic_store_n(&blocked->tid, gettid(), __ATOMIC_RELEASE);
        errno = 0;
        blocked->result = blocked->fn(blocked->arg);
        blocked->error = errno;
        __atomic_store_n(&blocked->done, 1, __ATOMIC_RELEASE);
        return NULL;
}

void blocked_start(struct blocked *ret, long (*fn)(void *arg), void *arg) {
        *ret = (struct blocked) { .fn = fn, .arg = arg };
        cr_assert(pthread_create(&ret->thread, NULL, blocked_thread, ret) == 0);
        cr_assert(EVENTUALLY(__atomic_load_n(&ret->tid, __ATOMIC_ACQUIRE) != 0));
}

bool blocked_is_done(const struct blocked *blocked) {
        return __atomic_load_n(&blocked->done, __ATOMIC_ACQUIRE);
}

static bool is_asleep(struct blocked *blocked, long number) {
        char state = test_thread_state(getpid(), blocked->tid);

        return (state == 'S' || state == 'D') && (number < 0 || test_thread_syscall(getpid(), blocked->tid) == number);
}

bool blocked_sleeps(struct blocked *blocked, long number) {
        return EVENTUALLY(blocked_is_done(blocked) || is_asleep(blocked, number)) && !blocked_is_done(blocked);
}

bool blocked_ends(struct blocked *blocked) {
        return EVENTUALLY(blocked_is_done(blocked)) && pthread_join(blocked->thread, NULL) == 0;
}
