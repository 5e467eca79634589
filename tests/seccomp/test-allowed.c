/* SPDX-License-Identifier: MIT */
/* What the broker does all day goes through its filter; all of it is seen by the integration tests, which run under
 * the filter. Here are the calls with a condition, on the right side of it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/seccomp/probe.h"

static uint32_t word;
static char from = 'x', to;
static struct iovec local = { &from, 1 }, remote = { &to, 1 };

static bool thread_starts(void) {
        pthread_t thread;

        return pthread_create(&thread, NULL, (void *(*) (void *) )(void *) pthread_self, NULL) == 0 &&
               pthread_join(thread, NULL) == 0;
}

static bool heap_grows_and_shrinks(void) {
        for (size_t size = 1 << 12; size <= 64 << 20; size <<= 2) {
                char *p = malloc(size);

                if (!p)
                        return false;
                memset(p, 1, size);
                free(p);
        }
        return true;
}

static bool mutex_is_taken_in_turn(void) {
        pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

        return pthread_mutex_lock(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0;
}

PROBE_ALLOWED(wake_of_chosen_waiters, syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 1) == 0)
PROBE_ALLOWED(copy_into_itself, process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 1 && to == 'x')
PROBE_ALLOWED(mapping_of_data,
              mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
PROBE_ALLOWED(backing_of_memory, ({
                      void *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                      madvise(p, 8192, 23 /* MADV_POPULATE_WRITE */) == 0;
              }))
PROBE_ALLOWED(late_threads, thread_starts())
PROBE_ALLOWED(allocation, heap_grows_and_shrinks())
PROBE_ALLOWED(locks, mutex_is_taken_in_turn())
PROBE_ALLOWED(exit, true)
