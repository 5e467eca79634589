/* SPDX-License-Identifier: MIT */
#include "broker/source-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "protocol/presence.h"

/* #syscalls:broker ~lseek preadv2 statx fadvise64 mincore */

/* What is known of holes without asking the file system again: enough for any image that was written in one go. Beyond
 * that many pieces it is asked each time. */
#define EXTENTS_MAX 65536u

struct data_extent {
        uint64_t begin, end; /* bytes */
};

struct source_file {
        struct source source;
        struct stat identity;
        void *view;              /* PROT_NONE: only ever asked for residency, never touched */
        atomic_bool no_nowait;   /* the file system has no RWF_NOWAIT (tmpfs, FUSE) */
        struct data_extent *extents; /* ascending: all data below known_end */
        size_t n_extents;
        uint64_t known_end;      /* bytes */
};

static struct source_file *file_of(struct source *source) {
        return CONTAINER_OF(source, struct source_file, source);
}

/* [offset, ...) as the file system has it now. SEEK_DATA moves the descriptor's offset, which nobody uses: reads are
 * positional. A file system without SEEK_DATA calls everything data. */
static void seek_extent(int fd, uint64_t offset, uint64_t size, bool *ret_data, uint64_t *ret_end) {
        off_t at = lseek(fd, (off_t) offset, SEEK_DATA);

        *ret_data = true;
        *ret_end = size;
        if (at < 0 && errno == ENXIO) /* a hole up to the end; or the file has become shorter: check() tells */
                *ret_data = false;
        else if (at >= 0 && (uint64_t) at > offset) {
                *ret_data = false;
                *ret_end = min_u64((uint64_t) at, size);
        } else if (at >= 0) {
                at = lseek(fd, (off_t) offset, SEEK_HOLE);
                if (at >= 0 && (uint64_t) at > offset)
                        *ret_end = min_u64((uint64_t) at, size);
        }
}

/* Asked once: a file system that hangs later (a network one) must not hang the pager in lseek(). */
static int file_scan(struct source_file *file) {
        uint64_t offset = 0, end;
        size_t max = 0;
        bool data;

        while (offset < file->source.size && file->n_extents < EXTENTS_MAX) {
                seek_extent(file->source.fd, offset, file->source.size, &data, &end);
                if (data && file->n_extents == max) {
                        struct data_extent *extents;

                        max = max ? 2 * max : 64;
                        extents = reallocarray(file->extents, max, sizeof *extents);
                        if (!extents)
                                return -ENOMEM;
                        file->extents = extents;
                }
                if (data)
                        file->extents[file->n_extents++] = (struct data_extent) { offset, end };
                offset = end;
        }
        file->known_end = offset;
        return 0;
}

static int file_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        struct source_file *file = file_of(source);
        size_t low = 0, high = file->n_extents;
        uint64_t end;

        if (offset >= file->known_end) {
                seek_extent(source->fd, offset, source->size, ret_data, &end);
                *ret_length = min_u64(end - offset, length);
                return 0;
        }
        while (low < high) { /* the first extent that ends after `offset` */
                size_t middle = low + (high - low) / 2;

                if (file->extents[middle].end <= offset)
                        low = middle + 1;
                else
                        high = middle;
        }
        *ret_data = low < file->n_extents && file->extents[low].begin <= offset;
        end = *ret_data              ? file->extents[low].end
              : low < file->n_extents ? file->extents[low].begin
                                      : file->known_end;
        *ret_length = min_u64(end - offset, length);
        return 0;
}

static ssize_t file_read_now(struct source *source, void *buffer, uint64_t offset, size_t length) {
        struct source_file *file = file_of(source);
        struct iovec iov = { .iov_base = buffer, .iov_len = length };
        ssize_t n;

        if (atomic_load_explicit(&file->no_nowait, memory_order_relaxed))
                return -EAGAIN;
        do
                n = preadv2(source->fd, &iov, 1, (off_t) offset, RWF_NOWAIT);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
                return n > 0 ? n : -EAGAIN; /* 0: the end; the cold path reports it */
        if (errno == EOPNOTSUPP) {
                atomic_store_explicit(&file->no_nowait, true, memory_order_relaxed);
                return -EAGAIN;
        }
        /* Whatever else it is (EIO), the cold path meets it again and counts it. */
        return errno == EFAULT ? -EFAULT : -EAGAIN;
}

/*
 * Size and mtime of the inode that was opened (its number cannot change under a descriptor). Not ctime: a supervisor may
 * unlink the file once the broker holds it. What this cannot see: a change within the file system's timestamp
 * granularity of the last one before the start, and a store through a writable mapping that was dirty already; see
 * docs/SECURITY.md. AT_STATX_DONT_SYNC: no round trip on a network file system.
 */
static int file_check(struct source *source) {
        const struct stat *was = &file_of(source)->identity;
        struct statx now;

        if (statx(source->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE | STATX_MTIME, &now) < 0)
                return 0; /* not an answer: what is wrong shows in the reads */
        if (now.stx_size != (uint64_t) was->st_size || now.stx_mtime.tv_sec != was->st_mtim.tv_sec ||
            now.stx_mtime.tv_nsec != was->st_mtim.tv_nsec)
                return -ESTALE;
        return 0;
}

/* mincore() tells the truth only to the file's owner or who may write it; others are told "resident", so that
 * nothing is dropped, which is the safe side. */
static uint64_t file_cold_mask(struct source *source, uint64_t offset, unsigned n_pages) {
        struct source_file *file = file_of(source);
        unsigned char resident[64];
        uint64_t mask = 0;

        assert(n_pages <= ELEMENTS(resident));
        if (!file->view || !range_fits(offset, n_pages * PB_PAGE_BYTES, align_up(source->size, PB_PAGE_BYTES)))
                return 0;
        if (mincore((char *) file->view + offset, n_pages * PB_PAGE_BYTES, resident) < 0)
                return 0;
        for (unsigned i = 0; i < n_pages; i++)
                if (!(resident[i] & 1))
                        mask |= 1ull << i;
        return mask;
}

static void file_drop_behind(struct source *source, uint64_t offset, uint64_t length) {
        (void) posix_fadvise(source->fd, (off_t) offset, (off_t) length, POSIX_FADV_DONTNEED);
}

/*
 * Can reads be made without waiting? FUSE and tmpfs have no such thing, but FUSE files have a poll(), from which io_uring
 * concludes that they are never to be waited for: it would make the reads on the thread that submits them, the pager,
 * which then hangs once a silent server has as many as the connection takes (12).
 */
static bool file_may_block(int fd, uint64_t size) {
        char byte;
        struct iovec iov = { .iov_base = &byte, .iov_len = 1 };

        /* At the end: anywhere else it would start readahead. */
        return preadv2(fd, &iov, 1, (off_t) size, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
}

/*
 * Reads past page cache save a copy and, above all, the work of filling page cache and of emptying it again. Whether the file
 * system and the disk below take reads of whole pages is found out here: they are for what page cache lacks, and a first try only.
 */
static int file_open_direct(const struct source *source) {
        _cleanup_close_ int fd = -1;
        char path[64];
        ssize_t n = 0;
        void *page;

        if (source->may_block)
                return 0;
        /* The file that is open, whatever is at its path by now. */
        (void) snprintf(path, sizeof path, "/proc/self/fd/%d", source->fd);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
        if (fd < 0)
                return 0;
        page = mmap(NULL, PB_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page != MAP_FAILED) {
                n = pread(fd, page, PB_PAGE_BYTES, 0);
                (void) munmap(page, PB_PAGE_BYTES);
        }
        return n == (ssize_t) PB_PAGE_BYTES ? fd_take(&fd) : 0;
}

static void file_free(struct source *source) {
        struct source_file *file = file_of(source);

        if (file->view)
                (void) munmap(file->view, source->size);
        (void) fd_close(source->fd);
        if (source->direct_fd > 0)
                (void) fd_close(source->direct_fd);
        free(file->extents);
        free(source->name);
        free(file);
}

static int fail(char **ret_error, int error, const char *path, const char *what) {
        if (ret_error && asprintf(ret_error, "source file '%s': %s", path, what) < 0)
                *ret_error = NULL;
        return error;
}

int source_open_file(struct source **ret, const char *name, const char *path, char **ret_error) {
        static const struct source_ops ops = {
                .scheme = "file",
                .extent = file_extent,
                .read_now = file_read_now,
                .check = file_check,
                .cold_mask = file_cold_mask,
                .drop_behind = file_drop_behind,
                .free = file_free,
        };
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct source_file *file;
        struct stat st;

        if (fd < 0)
                return fail(ret_error, -errno, path, strerror(errno));
        if (fstat(fd, &st) < 0)
                return fail(ret_error, -errno, path, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return fail(ret_error, -EINVAL, path, "not a regular file");
        /* It was for a FIFO's sake. Left on, it tells io_uring that reads never block. */
        if (fd_set_nonblocking(fd, false) < 0)
                return fail(ret_error, -errno, path, strerror(errno));
        if (st.st_size == 0)
                return fail(ret_error, -EINVAL, path, "is empty");
        if ((uint64_t) st.st_size < PB_PAGE_BYTES)
                return fail(ret_error, -EINVAL, path, "its size is not a multiple of 4096 bytes: not a raw memory image");
        file = calloc(1, sizeof *file);
        if (!file)
                return -ENOMEM;
        file->source = (struct source) {
                .ops = &ops,
                .name = strdup(name),
                .size = align_down((uint64_t) st.st_size, PB_PAGE_BYTES),
                .odd_size = !is_aligned((uint64_t) st.st_size, PB_PAGE_BYTES),
                .fd = fd_take(&fd),
                .identity = { st.st_dev, st.st_ino, (uint64_t) st.st_size, (uint64_t) st.st_mtim.tv_sec,
                              (uint64_t) st.st_mtim.tv_nsec },
        };
        file->identity = st;
        file->source.may_block = file_may_block(file->source.fd, file->source.size);
        file->source.direct_fd = file_open_direct(&file->source);
        atomic_init(&file->no_nowait, file->source.may_block);
        /* Readahead beyond what we asked for would bring pages into page cache that we could not drop again. */
        (void) posix_fadvise(file->source.fd, 0, 0, POSIX_FADV_RANDOM);
        file->view = mmap(NULL, file->source.size, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file->source.fd, 0);
        if (file->view == MAP_FAILED)
                file->view = NULL;
        if (!file->source.name || file_scan(file) < 0) {
                file_free(&file->source);
                return -ENOMEM;
        }
        *ret = &file->source;
        return 0;
}
