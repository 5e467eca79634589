/* SPDX-License-Identifier: MIT */
#include "broker/headroom.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker pread64 sysinfo */

#define LEVELS_MAX 16u
/* Version 1 says this much or more when there is no limit. */
#define NO_LIMIT (1ull << 60)
/* Others take from the same cgroup: what was read is trusted for a part of it only, and not for more than this. */
#define TRUST_PART 4u
#define TRUST_MAX (64ull << 20)

/* A cgroup and its files. -1: it has no such file. */
struct level {
        int max, current, stat, swap_max, swap_current;
};

static struct {
        pthread_mutex_t lock; /* for who reads the files */
        struct level levels[LEVELS_MAX];
        unsigned n_levels;
        uint64_t reserve;
        atomic_int_fast64_t trusted; /* bytes that may go in before the files are read again */
        struct log_limit limit;
} headroom = { .lock = PTHREAD_MUTEX_INITIALIZER, .limit = { .interval_us = 10 * USEC_PER_SEC, .burst = 1 } };

/* ---- finding the files ---- */

static int open_file(const char *directory, const char *name) {
        char path[512];

        if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int) sizeof path)
                return -1;
        return open(path, O_RDONLY | O_CLOEXEC);
}

static bool open_level(struct level *level, const char *directory, bool v2) {
        *level = (struct level) {
                .max = open_file(directory, v2 ? "memory.max" : "memory.limit_in_bytes"),
                .current = open_file(directory, v2 ? "memory.current" : "memory.usage_in_bytes"),
                .stat = open_file(directory, "memory.stat"),
                .swap_max = v2 ? open_file(directory, "memory.swap.max") : -1,
                .swap_current = v2 ? open_file(directory, "memory.swap.current") : -1,
        };
        return level->max >= 0 && level->current >= 0;
}

static void close_level(struct level *level) {
        int *fds[] = { &level->max, &level->current, &level->stat, &level->swap_max, &level->swap_current };

        for (unsigned i = 0; i < ELEMENTS(fds); i++)
                *fds[i] = fd_close(*fds[i]);
}

/* From the process's own cgroup up to the mount. */
static void open_levels(const char *mount, const char *path, bool v2) {
        size_t top = strlen(mount);
        char directory[512];

        if (snprintf(directory, sizeof directory, "%s%s", mount, strcmp(path, "/") == 0 ? "" : path) >=
            (int) sizeof directory)
                return;
        while (headroom.n_levels < LEVELS_MAX && strlen(directory) >= top) {
                struct level *level = &headroom.levels[headroom.n_levels];
                char *slash = strrchr(directory, '/');

                if (open_level(level, directory, v2))
                        headroom.n_levels++;
                else
                        close_level(level);
                if (!slash)
                        break;
                *slash = 0;
        }
}

static bool find_mount(bool v2, char ret[256]) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mounts", "re");
        char line[1024], type[32], options[256];

        while (f && fgets(line, sizeof line, f))
                if (sscanf(line, "%*s %255s %31s %255s", ret, type, options) == 3 &&
                    strcmp(type, v2 ? "cgroup2" : "cgroup") == 0 && (v2 || strstr(options, "memory")))
                        return true;
        return false;
}

void headroom_open(uint64_t reserve) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/cgroup", "re");
        char line[512], mount[256];

        headroom.reserve = reserve;
        while (f && reserve > 0 && fgets(line, sizeof line, f)) {
                char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
                bool v2;

                if (!path)
                        continue;
                *path++ = 0;
                path[strcspn(path, "\n")] = 0;
                v2 = controllers[1] == 0;
                if ((v2 || strstr(controllers, "memory")) && find_mount(v2, mount))
                        open_levels(mount, path, v2);
        }
}

void headroom_close(void) {
        while (headroom.n_levels > 0)
                close_level(&headroom.levels[--headroom.n_levels]);
}

/* ---- reading them ---- */

static bool read_text(int fd, char *text, size_t size) {
        ssize_t n = fd < 0 ? -1 : pread(fd, text, size - 1, 0);

        text[n < 0 ? 0 : n] = 0;
        return n > 0;
}

/* `otherwise`: no such file, or no number ("max"). */
static uint64_t read_number(int fd, uint64_t otherwise) {
        char text[64], *end;
        uint64_t value;

        if (!read_text(fd, text, sizeof text))
                return otherwise;
        value = strtoull(text, &end, 10);
        return end == text ? otherwise : value;
}

static uint64_t find_number(const char *text, const char *key) {
        const char *at = strstr(text, key);

        return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* Page cache that the kernel drops before it ends somebody. */
static uint64_t read_reclaimable(const struct level *level) {
        char text[8192];

        if (!read_text(level->stat, text, sizeof text))
                return 0;
        /* Version 1 has a sum over the cgroups below, under another name. */
        if (strstr(text, "\ntotal_inactive_file "))
                return find_number(text, "\ntotal_inactive_file ") + find_number(text, "\ntotal_active_file ");
        return find_number(text, "\ninactive_file ") + find_number(text, "\nactive_file ") +
               find_number(text, "\nslab_reclaimable ");
}

static uint64_t read_swap(const struct level *level) {
        uint64_t max = read_number(level->swap_max, UINT64_MAX), used = read_number(level->swap_current, 0);
        struct sysinfo info = {};

        (void) sysinfo(&info);
        return min_u64((uint64_t) info.freeswap * info.mem_unit, max > used ? max - used : 0);
}

/* UINT64_MAX: no limit. */
static uint64_t read_headroom(const struct level *level) {
        uint64_t max = read_number(level->max, UINT64_MAX), used, more;

        if (max >= NO_LIMIT)
                return UINT64_MAX;
        used = read_number(level->current, 0);
        more = read_reclaimable(level) + read_swap(level);
        return max > used ? max - used + more : more > used - max ? more - (used - max) : 0;
}

static bool look_again(uint64_t bytes) {
        uint64_t least = UINT64_MAX;
        uint32_t suppressed;

        for (unsigned i = 0; i < headroom.n_levels; i++)
                least = min_u64(least, read_headroom(&headroom.levels[i]));
        if (least >= headroom.reserve && least - headroom.reserve >= bytes) {
                atomic_store(&headroom.trusted, (int64_t) min_u64((least - headroom.reserve) / TRUST_PART, TRUST_MAX));
                return true;
        }
        atomic_store(&headroom.trusted, 0);
        if (log_limit_pass(&headroom.limit, &suppressed))
                log_error("the memory cgroup is full: %" PRIu64 " KiB are left, and %" PRIu64 " are kept "
                          "(--memory-headroom); pages that are wanted fail until its limit is raised",
                          least / 1024, headroom.reserve / 1024);
        return false;
}

bool headroom_take(uint64_t bytes) {
        bool ok;

        if (headroom.n_levels == 0)
                return true;
        if (atomic_fetch_sub(&headroom.trusted, (int64_t) bytes) >= (int64_t) bytes)
                return true;
        (void) pthread_mutex_lock(&headroom.lock);
        ok = look_again(bytes);
        (void) pthread_mutex_unlock(&headroom.lock);
        return ok;
}
