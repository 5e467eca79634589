/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "broker/install.h"
#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/peer-internal.h"
#include "common/macro.h"
#include "common/uffd.h"

/* #syscalls:broker ioctl:request=UFFDIO_API|UFFDIO_REGISTER|UFFDIO_UNREGISTER|UFFDIO_CONTINUE|UFFDIO_WAKE|UFFDIO_POISON */

int peer_api(struct peer *peer) {
        struct uffdio_api api = {
                .api = UFFD_API,
                .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM |
                            UFFD_FEATURE_MINOR_HUGETLBFS,
        };

        return ioctl(peer->uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

/* MISSING and MINOR: a hole, and a page that is in the memfd but not in this page table. The map decides what either
 * means, never the file's state. */
int peer_register(struct peer *peer, const struct peer_mapping *mapping) {
        struct uffdio_register reg = {
                .range = { .start = mapping->address, .len = mapping->length },
                .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
        };
        uint64_t needed = 1ull << _UFFDIO_CONTINUE | 1ull << _UFFDIO_WAKE;

        if (ioctl(peer->uffd, UFFDIO_REGISTER, &reg) < 0)
                return -errno;
        if ((reg.ioctls & needed) != needed)
                return -EOPNOTSUPP;
        return 0;
}

void peer_wake_range(struct peer *peer, uint64_t address, uint64_t length) {
        struct uffdio_range range = { .start = address, .len = length };

        (void) ioctl(peer->uffd, UFFDIO_WAKE, &range);
}

/* EINVAL and nothing done, if a part of the range is something else by now: then piece by piece. What is left at the end
 * is not ours. */
void peer_unregister(struct peer *peer, uint64_t address, uint64_t length, uint64_t backing_size) {
        struct uffdio_range range = { .start = address, .len = length };
        uint64_t half = align_down(length / 2, backing_size);

        /* EINVAL: a part is something else. Everything else: nothing of it is there any more. */
        if (ioctl(peer->uffd, UFFDIO_UNREGISTER, &range) == 0 || errno != EINVAL || half == 0) {
                /* The kernel wakes who waits there before it takes the range off: under the lock of one mapping (Linux 6.4 and
                 * later) such a thread may fault again in between, and nobody would wake it then. */
                peer_wake_range(peer, address, length);
                return;
        }
        peer_unregister(peer, address, half, backing_size);
        peer_unregister(peer, address + half, length - half, backing_size);
}

/* A page that cannot be backed after so many tries is left to its thread to fault again. */
#define BACK_TRIES 3

/*
 * [address, address + length) of one mapping. The CONTINUE loop of the design, section 4: every way out of the part
 * that a thread waits for goes through CONTINUE or WAKE, or that thread sleeps for ever.
 */
static int continue_mapping(struct peer *peer, const struct peer_mapping *mapping, uint64_t address, uint64_t length,
                            uint64_t faulting_until) {
        uint64_t backing = mapping->memory->backing_size, end = address + length;
        int tries = 0, result = 0;

        while (address < end) {
                struct uffdio_continue uffdio = { .range = { .start = address, .len = end - address } };
                uint64_t page = (mapping->offset + (address - mapping->address)) / PB_PAGE_BYTES;

                if (ioctl(peer->uffd, UFFDIO_CONTINUE, &uffdio) == 0) {
                        KILL_POINT("continued");
                        return result;
                }
                if (uffdio.mapped > 0) {
                        address += (uint64_t) uffdio.mapped;
                        tries = 0;
                        continue;
                }
                switch (errno) {
                case EEXIST:
                        /* Another thread of the peer was faster, or the page was continued in bulk; nobody has been
                         * woken then. */
                        peer_wake_range(peer, address, backing);
                        address += backing;
                        tries = 0;
                        break;
                case EFAULT:
                        /* A hole under a set bit: a zero extent, a discard, a balloon. Zeros, if somebody wants it. */
                        if (address >= faulting_until) {
                                address += backing;
                                break;
                        }
                        if (tries++ < BACK_TRIES && install_back(mapping->memory, page, 1) == 0)
                                break;
                        result = -ENOMEM;
                        peer_wake_range(peer, address, backing);
                        address += backing;
                        tries = 0;
                        break;
                case EAGAIN:
                        return -EAGAIN; /* the mapping is changing */
                case ENOENT: /* not mapped like this any more: whoever waited there has been woken by that */
                case EINVAL:
                        if (address < faulting_until)
                                peer_wake_range(peer, address, faulting_until - address);
                        return 0;
                case ESRCH:
                        return -ESRCH;
                default:
                        if (address < faulting_until)
                                peer_wake_range(peer, address, faulting_until - address);
                        return 0;
                }
        }
        return result;
}

/* A program may map the memory more than once, and a fault names one of them: the others cost little. Calls `visit` with
 * the part of [page, page + n) that each mapping shows. */
static int for_each_mapping(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n, uint64_t n_faulting,
                            int (*visit)(struct peer *, const struct peer_mapping *, uint64_t, uint64_t, uint64_t)) {
        uint64_t begin = page * PB_PAGE_BYTES, end = begin + n * PB_PAGE_BYTES;
        uint64_t faulting_end = begin + n_faulting * PB_PAGE_BYTES;
        int result = 0;

        for (unsigned i = 0; i < peer->n_mappings; i++) {
                const struct peer_mapping *mapping = &peer->mappings[i];
                uint64_t from = max_u64(begin, mapping->offset), to = min_u64(end, mapping->offset + mapping->length);
                int r;

                if (mapping->memory != memory || from >= to)
                        continue;
                r = visit(peer, mapping, mapping->address + (from - mapping->offset), to - from,
                          mapping->address + (max_u64(from, faulting_end) - mapping->offset));
                if (r < 0)
                        result = r;
        }
        return result;
}

int peer_continue(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n, uint64_t n_faulting) {
        return for_each_mapping(peer, memory, page, n, n_faulting, continue_mapping);
}

static int poison_mapping(struct peer *peer, const struct peer_mapping *mapping, uint64_t address, uint64_t length,
                          uint64_t faulting_until) {
        uint64_t backing = mapping->memory->backing_size, end = address + length;
        int result = 0;

        for (; address < end; address += backing) {
                struct uffdio_poison poison = { .range = { .start = address, .len = backing } };

                if (ioctl(peer->uffd, UFFDIO_POISON, &poison) == 0)
                        continue;
                /* Marked already, and nobody has been woken: who came between the mark and this waits. */
                if (errno == EEXIST)
                        peer_wake_range(peer, address, backing);
                else
                        result = -errno;
        }
        return result;
}

int peer_poison(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n) {
        return for_each_mapping(peer, memory, page, n, n, poison_mapping);
}

static int wake_mapping(struct peer *peer, const struct peer_mapping *mapping, uint64_t address, uint64_t length,
                        uint64_t faulting_until) {
        peer_wake_range(peer, address, length);
        return 0;
}

void peer_wake_all(struct peer *peer) {
        for (unsigned i = 0; i < peer->n_mappings; i++)
                peer_wake_range(peer, peer->mappings[i].address, peer->mappings[i].length);
}

void peer_wake(struct peer *peer, struct memory *memory, uint64_t page, uint64_t n) {
        (void) for_each_mapping(peer, memory, page, n, n, wake_mapping);
}
