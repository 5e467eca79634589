/* SPDX-License-Identifier: MIT */
/*
 * Calls that would fetch all of guest memory at once. Once a mapping is registered they could no longer fill it with
 * zeros, but the program would wait until everything is here.
 */
#include <errno.h>
#include <sys/mman.h>

#include "client/preload/next.h"
#include "client/preload/preload.h"
#include "client/preload/wrap.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

EXPORT int mlock2(const void *address, size_t length, unsigned flags) {
        if (!(flags & MLOCK_ONFAULT) && preload_is_guest(address, length)) {
                preload_say("mlock() of guest memory: its pages are locked when they come (MLOCK_ONFAULT)");
                flags |= MLOCK_ONFAULT;
        }
        return next_mlock2(address, length, flags);
}

EXPORT int mlock(const void *address, size_t length) {
        if (preload_is_guest(address, length))
                return mlock2(address, length, 0);
        return next_mlock(address, length);
}

/* MCL_FUTURE alone needs nothing: see map_registered(). */
EXPORT int mlockall(int flags) {
        if (flags & MCL_CURRENT && !(flags & MCL_ONFAULT) && preload_is_guest(NULL, SIZE_MAX)) {
                preload_say(
                        "mlockall(): all pages are locked when they are touched (MCL_ONFAULT), because guest memory "
                        "is mapped");
                flags |= MCL_ONFAULT;
        }
        return next_mlockall(flags);
}

static int follow_fork_advice(void *address, size_t length, int advice) {
        bool known;
        int r;

        preload_lock();
        r = next_madvise(address, length, advice);
        known = r < 0 ||
                mapping_set_skipped_at_fork(preload_mappings(), (uintptr_t) address,
                                            (uintptr_t) address + align_up(length, PAGE_SIZE), advice == MADV_DONTFORK);
        preload_unlock();
        if (!known)
                preload_say("too many pieces of guest memory with their own fork advice: a fork may fail");
        return r;
}

EXPORT int madvise(void *address, size_t length, int advice) {
        switch (advice) {
        case MADV_POPULATE_READ:
        case MADV_POPULATE_WRITE:
                if (!preload_is_guest(address, length))
                        break;
                preload_say("preallocation of guest memory is left out: its pages come when they are touched");
                return 0;
        case MADV_DONTFORK:
        case MADV_DOFORK:
                if (preload_is_guest(address, length))
                        return follow_fork_advice(address, length, advice);
                break;
        default:
                break;
        }
        return next_madvise(address, length, advice);
}
