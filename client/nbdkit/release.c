/* SPDX-License-Identifier: MIT */
#include "client/nbdkit/release.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"

#define MAGIC 0x0031303053524250ull /* "PBRS001\0" */
#define HEAD_SIZE 4096u

struct head {
        uint64_t magic;
        uint64_t n_pages;
        char identity[256];
};

struct release {
        int fd;
        uint64_t n_pages;
        size_t size;
        struct head *head;
        uint64_t *confirmed, *released; /* atomic words */
        bool caught_up;                 /* atomic */
};

static uint64_t n_words(uint64_t n_pages) {
        return (n_pages + 63) / 64;
}

static int release_map(struct release *release, const char *identity) {
        struct stat st;
        bool fresh;

        if (fstat(release->fd, &st) < 0)
                return -errno;
        fresh = st.st_size == 0;
        if (!fresh && (size_t) st.st_size != release->size)
                return -ESTALE;
        /* Its blocks now: without one later a store into the mapping would be SIGBUS. */
        if (fresh && posix_fallocate(release->fd, 0, (off_t) release->size) != 0)
                return -ENOSPC;
        release->head = mmap(NULL, release->size, PROT_READ | PROT_WRITE, MAP_SHARED, release->fd, 0);
        if (release->head == MAP_FAILED) {
                release->head = NULL;
                return -errno;
        }
        release->confirmed = (uint64_t *) (void *) ((char *) release->head + HEAD_SIZE);
        release->released = release->confirmed + n_words(release->n_pages);
        if (fresh) {
                release->head->n_pages = release->n_pages;
                (void) snprintf(release->head->identity, sizeof release->head->identity, "%s", identity);
                release->head->magic = MAGIC;
        }
        return release->head->magic == MAGIC && release->head->n_pages == release->n_pages &&
                               strncmp(release->head->identity, identity, sizeof release->head->identity) == 0
                       ? 0
                       : -ESTALE;
}

int release_open(struct release **ret, const char *path, const char *identity, uint64_t n_pages) {
        struct release *release = calloc(1, sizeof *release);
        int r;

        if (!release)
                return -ENOMEM;
        release->n_pages = n_pages;
        release->size = HEAD_SIZE + 2 * n_words(n_pages) * sizeof(uint64_t);
        release->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = release->fd < 0 ? -errno : 0;
        /* Two exporters of one memory, each with a file of its own or this one, would not know of each other. */
        if (r == 0 && flock(release->fd, LOCK_EX | LOCK_NB) < 0)
                r = -EBUSY;
        if (r == 0)
                r = release_map(release, identity);
        if (r < 0) {
                (void) release_close(release);
                return r;
        }
        *ret = release;
        return 0;
}

struct release *release_close(struct release *release) {
        if (!release)
                return NULL;
        if (release->head)
                (void) munmap(release->head, release->size);
        (void) fd_close(release->fd);
        free(release);
        return NULL;
}

void release_confirm(struct release *release, uint64_t first, uint64_t n) {
        for (uint64_t page = first; page < first + n; page++)
                __atomic_fetch_or(&release->confirmed[page / 64], 1ull << (page % 64), __ATOMIC_RELAXED);
}

/* Marks it, and says whether this caller did: several threads may take. */
static bool take(struct release *release, uint64_t page, bool again) {
        uint64_t bit = 1ull << (page % 64);

        if (!(__atomic_load_n(&release->confirmed[page / 64], __ATOMIC_RELAXED) & bit))
                return false;
        return !(__atomic_fetch_or(&release->released[page / 64], bit, __ATOMIC_SEQ_CST) & bit) || again;
}

bool release_take(struct release *release, uint64_t *page, uint64_t end, bool again, uint64_t *ret_n) {
        uint64_t n = 0;

        while (*page < end && !take(release, *page, again))
                (*page)++;
        if (*page >= end)
                return false;
        for (n = 1; *page + n < end && take(release, *page + n, again); n++)
                ;
        *ret_n = n;
        return true;
}

bool release_is_gone(const struct release *release, uint64_t first, uint64_t n) {
        for (uint64_t page = first; page < first + n; page++)
                if (__atomic_load_n(&release->released[page / 64], __ATOMIC_SEQ_CST) >> (page % 64) & 1)
                        return true;
        return false;
}

bool release_catches_up(struct release *release) {
        return !__atomic_exchange_n(&release->caught_up, true, __ATOMIC_RELAXED);
}
