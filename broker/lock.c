/* SPDX-License-Identifier: MIT */
#include "broker/lock.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/pager.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/macro.h"

/* More than the pager's thread ever uses of its stack, which has the C library's size. */
#define STACK_USED (256u << 10)

/* What the heap may grow by after it was locked, and blocks to make it grow with: smaller than what malloc() maps. */
#define HEAP_ROOM (512u << 10)
#define HEAP_BLOCK_SIZE (64u << 10)
#define HEAP_BLOCKS 64u

void lock_raise_limit(void) {
        (void) setrlimit(RLIMIT_MEMLOCK, &(struct rlimit) { RLIM_INFINITY, RLIM_INFINITY });
}

/* Is it worth a part of the limit, and safe? Guest memories and maps have been seen to; what is anonymous and has no name is
 * mostly stacks and buffers, far more than is used of them; and a locked main stack that grows over the limit is the end. */
static bool is_wanted(const char *permissions, const char *name) {
        if (strcmp(name, "[heap]") == 0)
                return true;
        return permissions[0] == 'r' && permissions[3] == 'p' && name[0] == '/' && !strstr(name, "/memfd:");
}

/* Where a heap grows after it was locked, it is not: there is room in it before. */
static void make_room_in_heap(void) {
        void *before = sbrk(0), *blocks[HEAP_BLOCKS];
        unsigned n = 0;

        (void) mallopt(M_TOP_PAD, HEAP_ROOM); /* also what is kept when all above it is free */
        while (n < HEAP_BLOCKS && sbrk(0) == before)
                blocks[n++] = malloc(HEAP_BLOCK_SIZE);
        while (n > 0)
                free(blocks[--n]);
}

/* Piece by piece, as far as the limit goes: a piece that does not fit is left out. Returns how many were. */
static unsigned lock_pieces(void) {
        _cleanup_fclose_ FILE *maps = fopen("/proc/self/maps", "re");
        char line[512];
        unsigned left_out = 0;

        while (maps && fgets(line, sizeof line, maps)) {
                char permissions[8], name[320] = "";
                uint64_t start, end;

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %*s %319[^\n]", &start, &end, permissions, name) >= 3 &&
                    is_wanted(permissions, name) && mlock2((void *) (uintptr_t) start, end - start, MLOCK_ONFAULT) < 0)
                        left_out++;
        }
        return left_out;
}

static bool lock_stack_of(pthread_t thread) {
        pthread_attr_t attr;
        size_t size = 0, used;
        void *bottom = NULL;
        bool ok;

        if (pthread_getattr_np(thread, &attr) != 0)
                return false;
        (void) pthread_attr_getstack(&attr, &bottom, &size);
        (void) pthread_attr_destroy(&attr);
        used = min_u64(size, STACK_USED);
        ok = bottom && mlock2((char *) bottom + size - used, used, MLOCK_ONFAULT) == 0;
        return ok;
}

void lock_own_memory(struct broker *broker) {
        struct rlimit limit = {};
        unsigned left_out;

        (void) getrlimit(RLIMIT_MEMLOCK, &limit);
        /* The kernel counts what is mapped, not what is touched: whole stacks, and each new guest memory for a moment. With
         * a limit, a later mmap() would fail over it. */
        if (limit.rlim_cur == RLIM_INFINITY && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0) {
                for (unsigned i = 0; i < broker->n_memories; i++)
                        memory_unlock(broker->memories[i]);
                return;
        }
        make_room_in_heap();
        left_out = !lock_stack_of(broker->pager->thread);
        left_out += lock_pieces();
        if (limit.rlim_cur == RLIM_INFINITY)
                log_notice("mlockall: %s; parts of the broker's own memory may be swapped out", strerror(errno));
        else
                log_notice("only code, heap, maps and the pager's stack are locked%s, other parts of the broker's own memory may "
                           "be swapped out: RLIMIT_MEMLOCK is %llu KiB, LimitMEMLOCK=infinity locks all of them",
                           left_out ? ", and not all of these" : "", (unsigned long long) limit.rlim_cur / 1024);
}
