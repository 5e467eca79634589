/* SPDX-License-Identifier: MIT */
#include "tests/hostile/stuck.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/process.h"

#define STUCK_SIZE (1u << 20)

struct server {
        int device;
        uint32_t *held;
};

static void answer(int device, uint64_t unique, int error, const void *body, size_t size) {
        struct fuse_out_header header = { .len = (uint32_t) (sizeof header + size), .error = error, .unique = unique };
        struct iovec iov[2] = { { &header, sizeof header }, { (void *) body, size } };

        (void) !writev(device, iov, size ? 2 : 1);
}

static struct fuse_attr file_attributes(void) {
        return (struct fuse_attr) {
                .ino = FUSE_ROOT_ID, .size = STUCK_SIZE, .mode = S_IFREG | 0666, .nlink = 1, .blksize = 4096
        };
}

static void serve_one(struct server *server, const struct fuse_in_header *in) {
        struct fuse_init_out init = {
                .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 65536, .max_readahead = 4096
        };
        struct fuse_attr_out attributes = { .attr_valid = 1000, .attr = file_attributes() };
        struct fuse_open_out opened = { .fh = 1 };
        static const char zeros[STUCK_SIZE];

        switch (in->opcode) {
        case FUSE_INIT:
                answer(server->device, in->unique, 0, &init, sizeof init);
                break;
        case FUSE_GETATTR:
        case FUSE_SETATTR:
                answer(server->device, in->unique, 0, &attributes, sizeof attributes);
                break;
        case FUSE_OPEN:
                answer(server->device, in->unique, 0, &opened, sizeof opened);
                break;
        case FUSE_READ:
                answer(server->device, in->unique, 0, zeros,
                       ((const struct fuse_read_in *) (const void *) (in + 1))->size);
                break;
        case FUSE_FLUSH:
        case FUSE_WRITE:
                (void) __atomic_fetch_add(server->held, 1, __ATOMIC_ACQ_REL);
                break;
        case FUSE_RELEASE:
                answer(server->device, in->unique, 0, NULL, 0);
                break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
                break;
        default:
                answer(server->device, in->unique, -ENOSYS, NULL, 0);
        }
}

/* A test that fails while something hangs hangs itself at its end: not for ever. */
#define SERVER_LIFE_S 300

static int serve(void *arg) {
        struct server *server = arg;
        _Alignas(struct fuse_in_header) static char buffer[256 << 10];

        (void) alarm(SERVER_LIFE_S);

        for (;;) {
                ssize_t n = read(server->device, buffer, sizeof buffer);

                if (n < 0 && errno != EINTR && errno != ENOENT)
                        return errno == ENODEV ? 0 : 1;
                if (n > 0)
                        serve_one(server, (const struct fuse_in_header *) (const void *) buffer);
        }
}

void stuck_start(struct stuck *stuck) {
        struct server server = { .device = open("/dev/fuse", O_RDWR | O_CLOEXEC) };
        char options[128];
        int fd;

        (void) snprintf(stuck->path, sizeof stuck->path, "%s/stuck-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        fd = mkostemp(stuck->path, O_CLOEXEC);
        cr_assert(fd >= 0 && close(fd) == 0);
        stuck->held = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(server.device >= 0 && stuck->held != MAP_FAILED);
        server.held = stuck->held;
        cr_assert(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        (void) snprintf(options, sizeof options, "fd=%d,rootmode=100666,user_id=0,group_id=0,allow_other",
                        server.device);
        cr_assert(mount("stuck", stuck->path, "fuse", MS_NOSUID | MS_NODEV, options) == 0, "mount: %s",
                  strerror(errno));
        stuck->pid = test_child_start((uid_t) -1, serve, &server);
        /* The server's is the only one left: when it dies the kernel fails what waits for it. */
        (void) close(server.device);
}

int stuck_open(const struct stuck *stuck) {
        int fd = open(stuck->path, O_RDWR | O_CLOEXEC);

        cr_assert(fd >= 0, "%s: %s", stuck->path, strerror(errno));
        return fd;
}

void stuck_wait_held(const struct stuck *stuck, uint32_t n) {
        cr_assert(EVENTUALLY(__atomic_load_n(stuck->held, __ATOMIC_ACQUIRE) >= n));
}

void stuck_stop(struct stuck *stuck) {
        (void) kill(stuck->pid, SIGKILL);
        (void) test_child_wait(stuck->pid);
        (void) umount2(stuck->path, MNT_DETACH);
        (void) unlink(stuck->path);
        (void) munmap(stuck->held, 4096);
}
