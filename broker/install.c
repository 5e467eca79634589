/* SPDX-License-Identifier: MIT */
#include "broker/install.h"
#include "broker/kill-point.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "broker/headroom.h"
#include "broker/memory.h"
#include "broker/slice.h"
#include "common/macro.h"

/* #syscalls:broker madvise:advice=MADV_POPULATE_WRITE process_vm_writev:self mincore */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

int install_by_memcpy;

void *install_target(struct memory *memory, uint64_t first) {
        return memory->base + first * PB_PAGE_BYTES;
}

int install_back(struct memory *memory, uint64_t first, uint64_t n) {
        uint64_t begin = align_down(first * PB_PAGE_BYTES, memory->backing_size);
        uint64_t end = align_up((first + n) * PB_PAGE_BYTES, memory->backing_size);

        /* Huge pages are counted elsewhere, and their pool says by itself when it is empty. */
        if (memory->backing_size == PB_PAGE_BYTES && !headroom_take(end - begin))
                return -ENOMEM;
        while (madvise(memory->base + begin, end - begin, MADV_POPULATE_WRITE) < 0) {
                if (errno == EINTR || errno == EAGAIN)
                        continue;
                /* EFAULT: VM_FAULT_SIGBUS or OOM on the way: no (huge) page to be had. */
                return errno == EFAULT ? -ENOMEM : -errno;
        }
        return 0;
}

/* process_vm_writev() to oneself is a memcpy() that fails instead of raising SIGBUS, and that backs a page which was
 * punched out under us meanwhile. */
int install_copy(struct memory *memory, uint64_t first, uint64_t n, const void *buffer) {
        struct iovec local = { .iov_base = (void *) buffer, .iov_len = n * PB_PAGE_BYTES };
        struct iovec remote = { .iov_base = install_target(memory, first), .iov_len = local.iov_len };
        int r = install_back(memory, first, n);

        if (r < 0)
                return r;
        if (install_by_memcpy) {
                memcpy(remote.iov_base, buffer, local.iov_len);
                return 0;
        }
        while (local.iov_len > 0) {
                ssize_t done = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);

                if (done < 0)
                        return errno == EFAULT ? -ENOMEM : -errno;
                if (done == 0)
                        return -EIO;
                KILL_POINT("copied");
                local.iov_base = (char *) local.iov_base + done;
                local.iov_len -= (size_t) done;
                remote.iov_base = (char *) remote.iov_base + done;
                remote.iov_len -= (size_t) done;
        }
        return 0;
}

const uint8_t install_zeros[SLICE_PAGES * PB_PAGE_BYTES];

/*
 * On huge pages a zero extent must be backed (a peer is given whole backing pages), and may be backed already with
 * bytes that a discard declared dead: always written. On 4 KiB pages a hole is zeros, and mincore() says of a shared
 * mapping whether there is a page in the memfd: one that some toucher made is overwritten, a hole stays one.
 */
int install_zero(struct memory *memory, uint64_t first, uint64_t n) {
        unsigned char resident[SLICE_PAGES];

        assert(n <= SLICE_PAGES);
        if (memory->backing_size > PB_PAGE_BYTES)
                return install_copy(memory, first, n, install_zeros);
        if (mincore(install_target(memory, first), n * PB_PAGE_BYTES, resident) < 0)
                memset(resident, 1, sizeof resident);
        for (uint64_t i = 0; i < n; i++) {
                int r = resident[i] & 1 ? install_copy(memory, first + i, 1, install_zeros) : 0;

                if (r < 0)
                        return r;
        }
        return 0;
}
