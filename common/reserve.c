/* SPDX-License-Identifier: MIT */
#include "common/reserve.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "common/macro.h"

void *reserve_for_huge(size_t size) {
        size_t slack = size >= RESERVE_HUGE ? RESERVE_HUGE : 0, length, before;
        char *start, *aligned;

        if (__builtin_add_overflow(size, slack, &length)) {
                errno = ENOMEM;
                return NULL;
        }
        start = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED)
                return NULL;
        if (!slack)
                return start;
        aligned = (char *) align_up((uintptr_t) start, RESERVE_HUGE);
        before = (size_t) (aligned - start);
        if (before > 0)
                (void) munmap(start, before);
        if (slack > before)
                (void) munmap(aligned + size, slack - before);
        return aligned;
}
