/* SPDX-License-Identifier: MIT */
#include "broker/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "broker/checksums.h"
#include "broker/numa-policy.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "common/reserve.h"
#include "protocol/order.h"

#define POISON_REASONS_MAX 4096u

uint64_t memory_present_mask(const struct memory *memory, uint64_t slice) {
        const uint32_t *words = &memory->present[slice * 2];

        return (uint64_t) order_present_load(&words[1]) << 32 | order_present_load(&words[0]);
}

uint64_t memory_poison_mask(const struct memory *memory, uint64_t slice) {
        const uint32_t *words = &memory->poison[slice * 2];

        return (uint64_t) order_poison_load(&words[1]) << 32 | order_poison_load(&words[0]);
}

bool memory_is_present(const struct memory *memory, uint64_t first, uint64_t n) {
        uint64_t last = first + n - 1;

        for (uint64_t slice = slice_of(first); slice <= slice_of(last); slice++) {
                uint64_t from = max_u64(first, slice * SLICE_PAGES), to = min_u64(last, slice * SLICE_PAGES + 63);
                uint64_t mask = slice_mask(from, to);

                if ((memory_present_mask(memory, slice) & mask) != mask)
                        return false;
        }
        return true;
}

static bool is_poisoned(const struct memory *memory, uint64_t page) {
        return memory_poison_mask(memory, slice_of(page)) & slice_mask(page, page);
}

/* Drops the reasons of what is not poisoned any more. Under the reasons' lock. */
static void drop_stale_reasons(struct memory *memory, uint64_t first, uint64_t n) {
        unsigned kept = 0;

        for (unsigned i = 0; i < memory->n_reasons; i++) {
                const struct poison_reason *reason = &memory->reasons[i];

                if (reason->page - first >= n || is_poisoned(memory, reason->page))
                        memory->reasons[kept++] = *reason;
        }
        memory->n_reasons = kept;
}

void memory_forget_reasons(struct memory *memory, uint64_t first, uint64_t n) {
        (void) pthread_mutex_lock(&memory->reasons_lock);
        drop_stale_reasons(memory, first, n);
        (void) pthread_mutex_unlock(&memory->reasons_lock);
}

void memory_poison(struct memory *memory, uint64_t slice, uint64_t mask, int error) {
        uint32_t *words = &memory->poison[slice * 2];

        (void) pthread_mutex_lock(&memory->reasons_lock);
        memory->last_reason = error;
        /* What was overwritten or discarded has left its reason behind. */
        if (memory->n_reasons + 64 > POISON_REASONS_MAX &&
            atomic_load_explicit(&memory->pages_poisoned, memory_order_relaxed) < memory->n_reasons)
                drop_stale_reasons(memory, 0, memory->n_pages);
        for (uint64_t m = mask; m && memory->n_reasons < POISON_REASONS_MAX; m &= m - 1)
                memory->reasons[memory->n_reasons++] = (struct poison_reason) {
                        .page = slice * SLICE_PAGES + (unsigned) __builtin_ctzll(m),
                        .error = error,
                };
        (void) pthread_mutex_unlock(&memory->reasons_lock);
        memory_take_back(memory, slice, mask);
        atomic_fetch_add_explicit(&memory->pages_poisoned, (unsigned) __builtin_popcountll(mask), memory_order_relaxed);
        if ((uint32_t) mask)
                order_poison_set(&words[0], (uint32_t) mask);
        if (mask >> 32)
                order_poison_set(&words[1], (uint32_t) (mask >> 32));
}

int memory_poison_reason(struct memory *memory, uint64_t page) {
        int error = 0;

        if (page >= memory->n_pages || !is_poisoned(memory, page))
                return 0;
        (void) pthread_mutex_lock(&memory->reasons_lock);
        error = memory->last_reason;
        /* From the end: a page that was healed and poisoned again has its last reason there. */
        for (unsigned i = memory->n_reasons; i-- > 0;)
                if (memory->reasons[i].page == page) {
                        error = memory->reasons[i].error;
                        break;
                }
        (void) pthread_mutex_unlock(&memory->reasons_lock);
        return error;
}

static int fail(char **ret_error, int error, const char *what, const char *why) {
        if (ret_error && asprintf(ret_error, "%s: %s", what, why) < 0)
                *ret_error = NULL;
        return error;
}

void memory_unlock(struct memory *memory) {
        (void) munlock(memory->base, memory->size);
}

int memory_place(struct memory *memory, uint64_t offset, uint64_t size, const struct numa_policy *policy, char **ret_error) {
        int r = numa_policy_apply(policy, memory->base + offset, size);
        char what[128];

        if (r == 0)
                return 0;
        (void) snprintf(what, sizeof what, "memory '%s'", memory->name);
        return fail(ret_error, r, what,
                    r == -EINVAL ? "its NUMA policy names no node that this process may use" : strerror(-r));
}

/* The one that we made in an earlier life. Its sources' bytes and the guest's are in it. */
static int memory_take_guest(struct memory *memory, const struct memory_options *options) {
        struct statfs fs;
        int r;

        memory->fd = options->guest_fd;
        r = memfd_check(memory->fd, memory->size, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        if (r < 0)
                return r;
        if (fstatfs(memory->fd, &fs) < 0)
                return -errno;
        if (memory->backing_size > PB_PAGE_BYTES
                    ? fs.f_type != HUGETLBFS_MAGIC || (uint64_t) fs.f_bsize != memory->backing_size
                    : fs.f_type == HUGETLBFS_MAGIC)
                return -EPROTO;
        memory->adopted = true;
        return 0;
}

static int memory_new_guest(struct memory *memory, const char *name) {
        int r;

        memory->fd = memfd_new(name, memory->size, memory->backing_size);
        r = memory->fd < 0 ? memory->fd : memfd_seal(memory->fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        return r;
}

static int memory_map(struct memory *memory) {
        bool small = memory->backing_size == PB_PAGE_BYTES;
        void *where = small ? reserve_for_huge(memory->size) : NULL, *base;

        if (small && !where)
                return -errno;
        base = mmap(where, memory->size, PROT_READ | PROT_WRITE, MAP_SHARED | (small ? MAP_NORESERVE | MAP_FIXED : 0),
                    memory->fd, 0);
        if (base == MAP_FAILED) {
                int r = -errno;

                if (where)
                        (void) munmap(where, memory->size);
                return r;
        }
        memory->base = base;
        return 0;
}

static int memory_make_guest(struct memory *memory, const struct memory_options *options, char **ret_error) {
        const char *huge = "cannot reserve its huge pages; see /proc/sys/vm/nr_hugepages or, for 1 GiB pages, "
                           "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
        char name[128], what[128];
        struct stat st;
        int r;

        (void) snprintf(name, sizeof name, "pagebroker:%s:%s", options->vm, options->name);
        (void) snprintf(what, sizeof what, "memory '%s'", options->name);
        r = options->adopt ? memory_take_guest(memory, options) : memory_new_guest(memory, name);
        if (r == -ENOENT || r == -ENODEV)
                return fail(ret_error, r, what, "this kernel has no huge pages of that size");
        if (r < 0)
                return fail(ret_error, r, what,
                            options->adopt ? "what the broker before this one left is not its memory" : strerror(-r));
        r = memory_map(memory);
        if (r < 0) {
                errno = -r;
                return fail(ret_error, -errno, what,
                            memory->backing_size == PB_PAGE_BYTES ? strerror(errno) : huge);
        }
        memory_unlock(memory);
        r = options->numa ? memory_place(memory, 0, memory->size, options->numa, ret_error) : 0;
        if (r < 0)
                return r;
        /* A child could write the map and the memory; and it must not inherit the cost. */
        (void) madvise(memory->base, memory->size, MADV_DONTFORK);
        (void) madvise(memory->base, memory->size, MADV_DONTDUMP);
        /* A transparent huge page would be behind 512 pages as soon as one is installed; an install of the others would
         * go into memory that a peer may have mapped already. */
        (void) madvise(memory->base, memory->size, MADV_NOHUGEPAGE);
        memory->fd_readonly = memfd_reopen_readonly(memory->fd);
        if (memory->fd_readonly < 0)
                return fail(ret_error, memory->fd_readonly, what, "cannot be re-opened read-only; is /proc mounted?");
        if (fstat(memory->fd, &st) < 0)
                return fail(ret_error, -errno, what, strerror(errno));
        memory->device = st.st_dev;
        memory->inode = st.st_ino;
        return 0;
}

static int memory_make_map(struct memory *memory, const struct memory_options *options, char **ret_error) {
        uint64_t size = presence_map_size(memory->n_pages);
        _cleanup_close_ int fd = -1;
        char name[128];
        int r;

        (void) snprintf(name, sizeof name, "pagebroker:%s:%s:map", options->vm, options->name);
        fd = memfd_new(name, size, PB_PAGE_BYTES);
        if (fd < 0)
                return fail(ret_error, fd, "presence map", strerror(-fd));
        memory->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (memory->map == MAP_FAILED) {
                memory->map = NULL;
                return fail(ret_error, -errno, "presence map", strerror(errno));
        }
        (void) madvise(memory->map, size, MADV_DONTFORK);
        *memory->map = (struct pb_map_header) {
                .magic = PB_MAP_MAGIC,
                .version = 1,
                .header_size = PB_MAP_HEADER_SIZE,
                .epoch = options->epoch,
                .n_pages = memory->n_pages,
                .backing_size = memory->backing_size,
                .present_offset = PB_MAP_HEADER_SIZE,
                .poison_offset = PB_MAP_HEADER_SIZE + presence_bitmap_size(memory->n_pages),
                .map_size = size,
        };
        memory->present = (uint32_t *) (void *) ((char *) memory->map + memory->map->present_offset);
        memory->poison = (uint32_t *) (void *) ((char *) memory->map + memory->map->poison_offset);
        /* Ours is the last writable mapping there will ever be (invariant 5). */
        r = memfd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
        if (r < 0)
                return fail(ret_error, r, "presence map", "cannot be sealed against writing");
        memory->map_fd = memfd_reopen_readonly(fd);
        if (memory->map_fd < 0)
                return fail(ret_error, memory->map_fd, "presence map", strerror(-memory->map_fd));
        /* Swapped-out maps would make every fault wait for the disk. Only what gets touched; best effort. */
        (void) mlock2(memory->map, size, MLOCK_ONFAULT);
        return 0;
}

int memory_take_bits(struct memory *memory, int map_fd) {
        uint32_t words[4096];
        uint64_t size = presence_map_size(memory->n_pages), end = memory->map->poison_offset;
        uint64_t offset = memory->map->present_offset, pages = 0;
        struct pb_map_header header;
        int r = memfd_check(map_fd, size, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);

        if (r < 0)
                return r;
        if (pread(map_fd, &header, sizeof header, 0) != sizeof header || header.magic != PB_MAP_MAGIC ||
            header.n_pages != memory->n_pages || header.present_offset != offset || header.poison_offset != end)
                return -EPROTO;
        /* By pread(): touching the holes of a mapping would give them memory. */
        while (offset < end) {
                ssize_t n = pread(map_fd, words, min_u64(sizeof words, end - offset), (off_t) offset);
                uint32_t *ours = (uint32_t *) (void *) ((char *) memory->map + offset);

                if (n <= 0 || n % (ssize_t) sizeof words[0])
                        return n < 0 ? -errno : -EPROTO;
                for (ssize_t i = 0; i < n / (ssize_t) sizeof words[0]; i++)
                        if (words[i])
                                pages += (unsigned) __builtin_popcount(words[i] &
                                                                       ~order_present_publish(&ours[i], words[i]));
                offset += (uint64_t) n;
        }
        atomic_fetch_add_explicit(&memory->pages_present, pages, memory_order_relaxed);
        size = end - memory->map->present_offset;
        memory->adopted_bits = memory->adopted_bits ?: malloc(size);
        if (!memory->adopted_bits)
                return -ENOMEM;
        memcpy(memory->adopted_bits, memory->present, size);
        return 0;
}

int memory_new(struct memory **ret, const struct memory_options *options, char **ret_error) {
        struct memory *memory = calloc(1, sizeof *memory);
        int r;

        if (!memory)
                return -ENOMEM;
        memory->fd = memory->fd_readonly = memory->map_fd = -1;
        (void) snprintf(memory->name, sizeof memory->name, "%s", options->name);
        memory->size = options->size;
        memory->n_pages = options->size / PB_PAGE_BYTES;
        memory->backing_size = options->backing_size;
        slice_shards_init(memory);
        (void) pthread_mutex_init(&memory->peers_lock, NULL);
        (void) pthread_mutex_init(&memory->reasons_lock, NULL);
        memory->reasons = calloc(POISON_REASONS_MAX, sizeof *memory->reasons);
        r = memory->reasons ? memory_make_guest(memory, options, ret_error) : -ENOMEM;
        if (r == 0)
                r = memory_make_map(memory, options, ret_error);
        if (r == 0)
                r = memory_make_data_map(memory);
        if (r < 0) {
                (void) memory_free(memory);
                return r;
        }
        *ret = memory;
        return 0;
}

struct memory *memory_free(struct memory *memory) {
        if (!memory)
                return NULL;
        slice_shards_done(memory);
        if (memory->map)
                (void) munmap(memory->map, presence_map_size(memory->n_pages));
        if (memory->base)
                (void) munmap(memory->base, memory->size);
        (void) fd_close(memory->map_fd);
        (void) fd_close(memory->fd_readonly);
        (void) fd_close(memory->fd);
        (void) source_free(memory->source);
        (void) checksums_free(memory->checksums);
        memory_free_data_map(memory);
        free(memory->reasons);
        free(memory->adopted_bits);
        (void) pthread_mutex_destroy(&memory->reasons_lock);
        (void) pthread_mutex_destroy(&memory->peers_lock);
        free(memory);
        return NULL;
}
