/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

#define SECTOR_SIZE 512u
#define RETRY_US 1000u

/* Skips what is done. True if something is left. */
static bool disk_io_advance(struct disk_io *io, uint64_t done) {
        io->offset += done;
        io->left -= done;
        while (done > 0) {
                uint64_t n = min_u64(done, io->iov->iov_len);

                io->iov->iov_base = (char *) io->iov->iov_base + n;
                io->iov->iov_len -= n;
                done -= n;
                if (io->iov->iov_len == 0) {
                        io->iov++;
                        io->n_iov--;
                }
        }
        return io->left > 0;
}

/* Takes a system call's result. True if the same call has to be made again, for the rest. */
static bool disk_io_goes_on(struct disk_io *io, ssize_t result, int *ret_result) {
        *ret_result = result < 0 ? (int) result : 0;
        if (result == -EINTR)
                return true;
        if (result < 0 || io->op == DISK_FLUSH)
                return false;
        if (result == 0 || (uint64_t) result > io->left) {
                *ret_result = -EIO; /* the file became shorter */
                return false;
        }
        return disk_io_advance(io, (uint64_t) result);
}

static ssize_t disk_call(struct disk *disk, struct disk_io *io) {
        ssize_t n;

        switch (io->op) {
        case DISK_READ:
                n = preadv(disk->fd, io->iov, (int) io->n_iov, (off_t) io->offset);
                break;
        case DISK_FLUSH:
                n = fdatasync(disk->fd);
                break;
        default:
                n = pwritev2(disk->fd, io->iov, (int) io->n_iov, (off_t) io->offset,
                             io->op == DISK_WRITE_THROUGH ? RWF_DSYNC : 0);
        }
        return n < 0 ? -errno : n;
}

static void disk_run(struct disk *disk, struct disk_io *io) {
        int result;

        while (disk_io_goes_on(io, disk_call(disk, io), &result))
                ;
        io->done(io, result);
}

static bool disk_queue(struct disk *disk, struct disk_io *io) {
        struct io_uring_sqe *sqe = disk->uring ? io_uring_get_sqe(&disk->ring) : NULL;

        if (!sqe)
                return false;
        if (io->op == DISK_READ)
                io_uring_prep_readv(sqe, disk->fd, io->iov, io->n_iov, io->offset);
        else if (io->op == DISK_FLUSH)
                io_uring_prep_fsync(sqe, disk->fd, IORING_FSYNC_DATASYNC);
        else
                io_uring_prep_writev2(sqe, disk->fd, io->iov, io->n_iov, io->offset,
                                      io->op == DISK_WRITE_THROUGH ? RWF_DSYNC : 0);
        io_uring_sqe_set_data(sqe, io);
        disk->in_flight++;
        disk->queued = true;
        return true;
}

void disk_start(struct disk *disk, struct disk_io *io) {
        if (!disk_queue(disk, io))
                disk_run(disk, io);
}

void disk_submit(struct disk *disk) {
        int r;

        if (!disk->queued)
                return;
        do
                r = io_uring_submit(&disk->ring);
        while (r == -EINTR);
        disk->queued = io_uring_sq_ready(&disk->ring) > 0;
        if (!disk->queued)
                return;
        /* The kernel is short of memory for requests; they stay in the ring. */
        (void) sd_event_source_set_time_relative(disk->retry_source, RETRY_US);
        (void) sd_event_source_set_enabled(disk->retry_source, SD_EVENT_ONESHOT);
}

static int disk_on_retry(sd_event_source *source UNUSED, uint64_t usec UNUSED, void *userdata) {
        disk_submit(userdata);
        return 0;
}

static void disk_reap(struct disk *disk) {
        struct io_uring_cqe *cqe;
        int result;

        while (io_uring_peek_cqe(&disk->ring, &cqe) == 0) {
                struct disk_io *io = io_uring_cqe_get_data(cqe);
                ssize_t n = cqe->res;

                io_uring_cqe_seen(&disk->ring, cqe);
                disk->in_flight--;
                if (disk_io_goes_on(io, n, &result))
                        disk_start(disk, io);
                else
                        io->done(io, result);
        }
}

static int disk_on_readable(sd_event_source *source UNUSED, int fd UNUSED, uint32_t events UNUSED, void *userdata) {
        disk_reap(userdata);
        return 0;
}

static int disk_open_uring(struct disk *disk) {
        int r = io_uring_queue_init(DISK_ENTRIES, &disk->ring, 0);

        if (r < 0)
                return r;
        disk->uring = true;
        r = sd_event_add_io(disk->event, &disk->source, disk->ring.ring_fd, EPOLLIN, disk_on_readable, disk);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(disk->event, &disk->retry_source, CLOCK_MONOTONIC, RETRY_US, 0, disk_on_retry,
                                       disk);
        return r < 0 ? r : sd_event_source_set_enabled(disk->retry_source, SD_EVENT_OFF);
}

int disk_open(struct disk *disk, sd_event *event, const char *path, bool readonly, bool uring) {
        struct stat st;
        off_t size;
        int r;

        disk->event = event;
        disk->readonly = readonly;
        disk->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (disk->fd < 0 || fstat(disk->fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return -ENOTBLK;
        /* That was for FIFOs; io_uring would answer -EAGAIN instead of waiting for the disk. */
        r = fd_set_nonblocking(disk->fd, false);
        if (r < 0)
                return r;
        size = lseek(disk->fd, 0, SEEK_END);
        if (size < 0)
                return -errno;
        if (size % SECTOR_SIZE != 0)
                log_warning("the last %u bytes of %s are not a whole sector: the guest will not see them",
                            (unsigned) (size % SECTOR_SIZE), path);
        disk->size = align_down((uint64_t) size, SECTOR_SIZE);
        if (!uring)
                return 0;
        r = disk_open_uring(disk);
        if (r == -EPERM || r == -EACCES || r == -ENOSYS || r == -ENOMEM) {
                log_info("no io_uring here (%s): using preadv and pwritev", strerror(-r));
                return 0;
        }
        return r;
}

void disk_close(struct disk *disk) {
        struct io_uring_cqe *cqe;

        /* The kernel goes on with submitted reads when their process dies: they must not land in guest memory later,
         * when somebody else relies on it. */
        disk_submit(disk);
        while (disk->in_flight > 0 && io_uring_wait_cqe(&disk->ring, &cqe) == 0) {
                disk_reap(disk);
                disk_submit(disk);
        }
        disk->source = sd_event_source_disable_unref(disk->source);
        disk->retry_source = sd_event_source_disable_unref(disk->retry_source);
        if (disk->uring)
                io_uring_queue_exit(&disk->ring);
        disk->uring = false;
        disk->fd = fd_close(disk->fd);
}
