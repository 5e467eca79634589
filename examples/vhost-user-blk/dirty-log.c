/* SPDX-License-Identifier: MIT */
#include "dirty-log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "client/pagebroker.h"
#include "common/fd.h"

int dirty_log_set(struct dirty_log *log, int fd, uint64_t size, uint64_t offset) {
        void *bits;
        int r;

        if (size == 0 || offset != 0 || size > SIZE_MAX)
                return -EINVAL;
        /* Without the seal the front-end could shrink it under us, and a mark would be a SIGBUS. QEMU seals. */
        r = memfd_check(fd, size, F_SEAL_SHRINK);
        if (r < 0)
                return r;
        bits = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (bits == MAP_FAILED)
                return -errno;
        dirty_log_clear(log);
        log->bits = bits;
        log->size = size;
        return 0;
}

void dirty_log_clear(struct dirty_log *log) {
        if (log->bits)
                (void) munmap(log->bits, log->size);
        log->bits = NULL;
        log->size = 0;
}

void dirty_log_mark(struct dirty_log *log, uint64_t gpa, uint64_t len) {
        if (!log->bits || len == 0)
                return;
        /* After the write that it stands for: the front-end clears a bit before it copies the page. */
        for (uint64_t page = gpa >> PB_PAGE_SHIFT; page <= (gpa + len - 1) >> PB_PAGE_SHIFT && page / 8 < log->size;
             page++)
                __atomic_fetch_or(&log->bits[page / 8], (uint8_t) (1u << page % 8), __ATOMIC_SEQ_CST);
}
