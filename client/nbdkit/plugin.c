/* SPDX-License-Identifier: MIT */
/*
 * nbdkit-pagebroker-plugin: one memory of a broker as an NBD export, for another broker to read: post-copy. Every page is
 * ensured before it is read, so an absent one is fetched and not sent as zeros. docs/POSTCOPY.md has the order of things.
 *
 *      nbdkit pagebroker socket=/run/web1.sock [memory=N] [state=FILE commit=FILE]
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/nbdkit/release.h"
#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/macro.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define REGIONS_MAX 64u

static struct {
        char *socket, *state, *commit;
        unsigned memory;
        pb_client *client;
        struct pb_region regions[REGIONS_MAX]; /* of that memory */
        unsigned n_regions;
        uint64_t size;      /* bytes */
        char identity[200];
        struct release *release; /* NULL: nothing is ever released */
} export;

static int export_config(const char *key, const char *value) {
        char **path = strcmp(key, "socket") == 0   ? &export.socket
                      : strcmp(key, "state") == 0  ? &export.state
                      : strcmp(key, "commit") == 0 ? &export.commit
                                                   : NULL;

        if (path) {
                free(*path);
                *path = nbdkit_absolute_path(value);
                return *path ? 0 : -1;
        }
        if (strcmp(key, "memory") == 0)
                return nbdkit_parse_unsigned("memory", value, &export.memory);
        nbdkit_error("unknown parameter '%s'; known: socket, memory, state, commit", key);
        return -1;
}

static int export_config_complete(void) {
        if (!export.socket)
                nbdkit_error("socket=PATH is missing: the broker's");
        else if (!export.state != !export.commit)
                nbdkit_error("state=FILE and commit=FILE go together");
        return export.socket && !export.state == !export.commit ? 0 : -1;
}

static int open_regions(void) {
        struct pb_region region = {};

        for (unsigned i = 0; pb_get_region(export.client, i, &region) == 0; i++) {
                if (region.memory != export.memory)
                        continue;
                if (export.n_regions == REGIONS_MAX)
                        return -1;
                export.regions[export.n_regions++] = region;
                export.size = max_u64(export.size, region.offset + region.size);
        }
        return export.n_regions > 0 ? 0 : -1;
}

/* The memfd is the memory: no other one has its inode while this machine runs. */
static void make_identity(void) {
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        char boot[40] = "";
        struct stat st = {};

        if (fd >= 0 && read(fd, boot, 36) != 36)
                boot[0] = 0;
        (void) fstat(export.regions[0].fd, &st);
        (void) snprintf(export.identity, sizeof export.identity, "pagebroker memory %llx:%llx of boot %s",
                        (unsigned long long) st.st_dev, (unsigned long long) st.st_ino, boot);
}

/* In the process that serves: a client does not survive a fork. */
static int export_after_fork(void) {
        struct pb_options options = { .size = sizeof options, .role = export.state ? PB_ROLE_VMM : PB_ROLE_DEVICE,
                                      .name = "nbdkit" };
        int r = pb_connect(&export.client, export.socket, &options);

        if (r < 0) {
                nbdkit_error("%s: %s", export.socket, strerror(-r));
                return -1;
        }
        if (open_regions() < 0) {
                nbdkit_error("the broker has no memory %u that the guest sees", export.memory);
                return -1;
        }
        make_identity();
        r = export.state ? release_open(&export.release, export.state, export.identity, export.size / PB_PAGE_SIZE) : 0;
        if (r < 0)
                nbdkit_error("state file %s: %s", export.state,
                             r == -ESTALE  ? "is of another memory"
                             : r == -EBUSY ? "is in use by another exporter"
                                           : strerror(-r));
        return r < 0 ? -1 : 0;
}

static void export_unload(void) {
        export.client = pb_disconnect(export.client);
        export.release = release_close(export.release);
        free(export.socket);
        free(export.state);
        free(export.commit);
}

static void *export_open(int readonly) {
        return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t export_get_size(void *handle) {
        return (int64_t) export.size;
}

static const char *export_description(void *handle) {
        return export.identity;
}

static int yes(void *handle) {
        return 1;
}

/* Trims say what the receiver has; and a server that takes trims must take writes, which fail. */
static int has_release(void *handle) {
        return export.release != NULL;
}

static int export_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
        nbdkit_error("a memory that is exported is not written");
        nbdkit_set_error(EROFS);
        return -1;
}

/* The region that has `offset` of the memory, and how much of [offset, offset + count) it has. */
static const struct pb_region *find_region(uint64_t offset, uint64_t count, uint64_t *ret_count) {
        for (unsigned i = 0; i < export.n_regions; i++) {
                const struct pb_region *region = &export.regions[i];

                if (offset < region->offset || offset - region->offset >= region->size)
                        continue;
                *ret_count = min_u64(count, region->size - (offset - region->offset));
                return region;
        }
        return NULL;
}

static int fail(const char *why) {
        nbdkit_error("%s", why);
        nbdkit_set_error(EIO);
        return -1;
}

static bool is_gone(uint64_t offset, uint64_t count) {
        return export.release && release_is_gone(export.release, offset / PB_PAGE_SIZE,
                                                 (offset + count - 1) / PB_PAGE_SIZE - offset / PB_PAGE_SIZE + 1);
}

/* By the descriptor, and not from the mapping: there a hole that is read becomes a page of zeros. */
static bool read_all(int fd, void *buffer, uint64_t count, uint64_t offset) {
        while (count > 0) {
                ssize_t n = pread(fd, buffer, count, (off_t) offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return false;
                buffer = (char *) buffer + n;
                offset += (uint64_t) n;
                count -= (uint64_t) n;
        }
        return true;
}

static int export_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
        while (count > 0) {
                uint64_t n;
                const struct pb_region *region = find_region(offset, count, &n);

                if (!region)
                        return fail("no region shows this part of the memory");
                if (is_gone(offset, n))
                        return fail("these pages have been released: their receiver has confirmed them");
                if (pb_ensure(export.client, region->gpa + (offset - region->offset), n, PB_READ) < 0)
                        return fail(pb_explain(export.client));
                if (!read_all(region->fd, buffer, n, offset))
                        return fail("the memory cannot be read");
                /* Released in between, it may have been zeros already. The mark comes before the discard. */
                if (is_gone(offset, n))
                        return fail("these pages have just been released");
                buffer = (char *) buffer + n;
                offset += n;
                count -= (uint32_t) n;
        }
        return 0;
}

/* Gives back what is confirmed in [first, end), `again` also what has been marked for that before. */
static void discard(uint64_t first, uint64_t end, bool again) {
        uint64_t n;

        for (uint64_t page = first; release_take(export.release, &page, end, again, &n); page += n) {
                uint64_t offset = page * PB_PAGE_SIZE, left = n * PB_PAGE_SIZE, part;

                for (; left > 0; offset += part, left -= part) {
                        const struct pb_region *region = find_region(offset, left, &part);

                        if (!region)
                                return;
                        /* If it fails the page stays, and is not read again either. */
                        if (pb_discard(export.client, region->gpa + (offset - region->offset), part) < 0)
                                nbdkit_debug("discard at %llu: %s", (unsigned long long) offset, pb_explain(export.client));
                }
        }
}

static int export_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
        /* Whole pages only. */
        uint64_t first = align_up(offset, PB_PAGE_SIZE) / PB_PAGE_SIZE, end = (offset + count) / PB_PAGE_SIZE;

        if (first >= end)
                return 0;
        release_confirm(export.release, first, end - first);
        if (access(export.commit, F_OK) < 0)
                return 0; /* the old machine may still have to go on */
        if (release_catches_up(export.release))
                discard(0, export.size / PB_PAGE_SIZE, true);
        else
                discard(first, end, false);
        return 0;
}

/* Present, and a hole of the memfd: zeros. Else data, and what is absent is fetched when it is read. */
static bool is_zero_run(const struct pb_region *region, uint64_t offset, uint64_t count, uint64_t *ret_count) {
        off_t data = lseek(region->fd, (off_t) offset, SEEK_DATA);
        uint64_t hole = data < 0 ? (errno == ENXIO ? count : 0) : min_u64((uint64_t) data - offset, count);
        uint64_t n = 0;

        hole = align_down(hole, PB_PAGE_SIZE);
        while (n < hole && pb_is_present(export.client, region->gpa + (offset - region->offset) + n, PB_PAGE_SIZE) &&
               !is_gone(offset + n, PB_PAGE_SIZE))
                n += PB_PAGE_SIZE;
        if (n > 0) {
                *ret_count = n;
                return true;
        }
        /* Up to where the next hole may be: not page by page. */
        data = hole > 0 ? (off_t) (offset + PB_PAGE_SIZE) : lseek(region->fd, (off_t) offset, SEEK_HOLE);
        *ret_count = data > (off_t) offset ? min_u64(align_up((uint64_t) data - offset, PB_PAGE_SIZE), count) : count;
        return false;
}

static int export_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents) {
        uint64_t end = offset + count, part, n;

        for (offset = align_down(offset, PB_PAGE_SIZE); offset < end; offset += n) {
                const struct pb_region *region = find_region(offset, align_up(end, PB_PAGE_SIZE) - offset, &part);
                bool zero;

                if (!region)
                        return nbdkit_add_extent(extents, offset, end - offset, 0);
                zero = is_zero_run(region, offset, part, &n);
                if (nbdkit_add_extent(extents, offset, n, zero ? NBDKIT_EXTENT_ZERO | NBDKIT_EXTENT_HOLE : 0) < 0)
                        return -1;
                if (flags & NBDKIT_FLAG_REQ_ONE)
                        break;
        }
        return 0;
}

static struct nbdkit_plugin plugin = {
        .name = "pagebroker",
        .version = PAGEBROKER_VERSION,
        .longname = "Pagebroker: a memory, for post-copy",
        .config = export_config,
        .config_complete = export_config_complete,
        .config_help = "socket=PATH   the broker's socket\n"
                       "memory=N      which memory (0)\n"
                       "state=FILE    release what a receiver trims, and remember it there,\n"
                       "commit=FILE   as soon as this file exists",
        .magic_config_key = "socket",
        .after_fork = export_after_fork,
        .unload = export_unload,
        .open = export_open,
        .get_size = export_get_size,
        .export_description = export_description,
        .can_multi_conn = yes,
        .can_write = has_release,
        .can_trim = has_release,
        .can_extents = yes,
        .pread = export_pread,
        .pwrite = export_pwrite,
        .trim = export_trim,
        .extents = export_extents,
};

struct nbdkit_plugin *plugin_init(void); /* defined by the macro, which does not declare it */
NBDKIT_REGISTER_PLUGIN(plugin)
