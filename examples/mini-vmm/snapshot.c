/* SPDX-License-Identifier: MIT */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "complain.h"

#define PIECE ((size_t) 1 << 20)

static int snapshot_open(const char *folder, const char *name, int flags, char path[static PATH_MAX]) {
        int fd;

        if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
                return complain(-ENAMETOOLONG, "--snapshot=%s", folder);
        fd = open(path, flags | O_CLOEXEC, 0600);
        return fd < 0 ? complain(-errno, "--snapshot: %s", path) : fd;
}

static int write_all(int fd, const uint8_t *data, size_t size, uint64_t offset) {
        ssize_t n;

        for (; size > 0; data += n, size -= (size_t) n, offset += (uint64_t) n) {
                n = pwrite(fd, data, size, (off_t) offset);
                if (n < 0)
                        return -errno;
        }
        return 0;
}

static bool is_zero_page(const uint8_t *page) {
        return page[0] == 0 && memcmp(page, page + 1, PB_PAGE_SIZE - 1) == 0;
}

/* Runs of pages that are not all zeros; the rest stays a hole of the image. */
static int write_pages(int fd, const uint8_t *memory, uint64_t offset, uint64_t end) {
        uint64_t run;
        int r;

        while (offset < end) {
                if (is_zero_page(memory + offset)) {
                        offset += PB_PAGE_SIZE;
                        continue;
                }
                for (run = offset; run < end && !is_zero_page(memory + run);)
                        run += PB_PAGE_SIZE;
                r = write_all(fd, memory + offset, run - offset, offset);
                if (r < 0)
                        return r;
                offset = run;
        }
        return 0;
}

/* Looks only at what the memfd has backed: reading a hole through the mapping would fill it. */
static int write_image(int fd, const struct memory *memory) {
        off_t start = 0, end;
        int r;

        while ((start = lseek(memory->fd, start, SEEK_DATA)) >= 0) {
                end = lseek(memory->fd, start, SEEK_HOLE);
                if (end < 0)
                        return -errno;
                r = write_pages(fd, memory->addr, (uint64_t) start, (uint64_t) end);
                if (r < 0)
                        return r;
                start = end;
        }
        return errno == ENXIO ? 0 : -errno; /* no data behind `start` */
}

int snapshot_save(const char *folder, const struct snapshot_state *state, const struct memory *memory) {
        char state_path[PATH_MAX], new_path[PATH_MAX], image_path[PATH_MAX];
        _cleanup_close_ int image = -1, file = -1;
        int r;

        if (mkdir(folder, 0700) < 0 && errno != EEXIST)
                return complain(-errno, "--snapshot: %s", folder);
        file = snapshot_open(folder, "state.new", O_WRONLY | O_CREAT | O_TRUNC, new_path);
        if (file < 0)
                return file;
        (void) memcpy(state_path, new_path, sizeof state_path);
        state_path[strlen(state_path) - strlen(".new")] = 0;
        if (unlink(state_path) < 0 && errno != ENOENT)
                return complain(-errno, "--snapshot: %s", state_path);
        image = snapshot_open(folder, "memory.img", O_WRONLY | O_CREAT | O_TRUNC, image_path);
        if (image < 0)
                return image;
        r = ftruncate(image, (off_t) memory->size) < 0 ? -errno : write_image(image, memory);
        if (r < 0)
                return complain(r, "--snapshot: %s", image_path);
        r = write_all(file, (const uint8_t *) state, sizeof *state, 0);
        if (r < 0 || rename(new_path, state_path) < 0)
                return complain(r < 0 ? r : -errno, "--snapshot: %s", new_path);
        return 0;
}

int snapshot_load_state(const char *folder, struct snapshot_state *ret) {
        _cleanup_close_ int file = -1;
        struct snapshot_state state;
        char path[PATH_MAX];
        ssize_t n;

        file = snapshot_open(folder, "state", O_RDONLY, path);
        if (file < 0)
                return file;
        n = read(file, &state, sizeof state);
        if (n < 0)
                return complain(-errno, "--snapshot: %s", path);
        if (n != sizeof state || state.magic != SNAPSHOT_MAGIC || state.vcpu.n_msrs > VCPU_MSRS_MAX)
                return complain(0, "--snapshot: %s: not written by this mini-vmm", path);
        if (layout_settle(&state.layout) < 0)
                return complain(0, "--snapshot: %s: does not describe a guest", path);
        *ret = state;
        return 0;
}

/* [offset, end) of the image, all data. */
static int read_extent(int fd, uint8_t *memory, uint64_t offset, uint64_t end) {
        ssize_t n;

        while (offset < end) {
                n = pread(fd, memory + offset, min_u64(PIECE, end - offset), (off_t) offset);
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                offset += (uint64_t) n;
        }
        return 0;
}

static int read_image(int fd, struct memory *memory) {
        off_t start = 0, end;
        int r;

        while ((start = lseek(fd, start, SEEK_DATA)) >= 0) {
                end = lseek(fd, start, SEEK_HOLE);
                if (end < 0)
                        return -errno;
                r = read_extent(fd, memory->addr, (uint64_t) start, min_u64((uint64_t) end, memory->size));
                if (r < 0)
                        return r;
                start = end;
        }
        return errno == ENXIO ? 0 : -errno;
}

int snapshot_load_memory(const char *folder, struct memory *memory) {
        _cleanup_close_ int image = -1;
        char path[PATH_MAX];
        struct stat st;
        int r;

        image = snapshot_open(folder, "memory.img", O_RDONLY, path);
        if (image < 0)
                return image;
        if (fstat(image, &st) < 0)
                return complain(-errno, "--snapshot: %s", path);
        if ((uint64_t) st.st_size != memory->size)
                return complain(0, "--snapshot: %s: has %lld bytes, the guest %llu", path, (long long) st.st_size,
                                (unsigned long long) memory->size);
        r = read_image(image, memory);
        return r < 0 ? complain(r, "--snapshot: %s", path) : 0;
}
