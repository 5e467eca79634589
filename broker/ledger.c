/* SPDX-License-Identifier: MIT */
#include "broker/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "protocol/presence.h"

#define LEDGER_MAGIC 0x003130304744454cull /* "LEDG001\0" */
#define LEDGER_VERSION 1u
#define LEDGER_SIZE ((sizeof(struct ledger_data) + PB_PAGE_BYTES - 1) & ~(PB_PAGE_BYTES - 1))
#define LEDGER_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A later version that changes this reads the old layout too: the memory of a running VM hangs on it. */
static_assert(sizeof(struct ledger_memory) == 104 && sizeof(struct ledger_region) == 32 &&
                      sizeof(struct ledger_mapping) == 32 && sizeof(struct ledger_holder) == 72 &&
                      offsetof(struct ledger_peer, mappings) == 64,
              "read by the next version of the broker");

static int ledger_map(struct ledger *ledger) {
        void *data = mmap(NULL, LEDGER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ledger->fd, 0);

        if (data == MAP_FAILED)
                return -errno;
        ledger->data = data;
        (void) madvise(data, LEDGER_SIZE, MADV_DONTFORK);
        return 0;
}

int ledger_new(struct ledger **ret, const char *vm) {
        struct ledger *ledger = calloc(1, sizeof *ledger);
        char name[64];
        int r;

        if (!ledger)
                return -ENOMEM;
        ledger->lock_fd = -1;
        (void) snprintf(name, sizeof name, "pagebroker:%s:ledger", vm);
        ledger->fd = memfd_new(name, LEDGER_SIZE, PB_PAGE_BYTES);
        r = ledger->fd < 0 ? ledger->fd : memfd_seal(ledger->fd, LEDGER_SEALS);
        if (r == 0)
                r = ledger_map(ledger);
        if (r == 0)
                r = ledger_lock(ledger);
        if (r < 0) {
                (void) ledger_free(ledger);
                return r;
        }
        assert(ledger->data);
        ledger->data->magic = LEDGER_MAGIC;
        ledger->data->version = LEDGER_VERSION;
        (void) snprintf(ledger->data->vm, sizeof ledger->data->vm, "%s", vm);
        *ret = ledger;
        return 0;
}

int ledger_open(struct ledger **ret, int fd) {
        struct ledger *ledger = calloc(1, sizeof *ledger);
        int r;

        if (!ledger) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        ledger->fd = fd;
        ledger->lock_fd = -1;
        r = memfd_check(fd, LEDGER_SIZE, LEDGER_SEALS);
        if (r == 0)
                r = ledger_map(ledger);
        if (r == 0 && (!ledger->data || ledger->data->magic != LEDGER_MAGIC || ledger->data->version != LEDGER_VERSION ||
                       ledger->data->n_memories > PB_MEMORIES_MAX || ledger->data->n_regions > PB_REGIONS_MAX))
                r = -EPROTO;
        if (r < 0) {
                (void) ledger_free(ledger);
                return r;
        }
        *ret = ledger;
        return 0;
}

struct ledger *ledger_free(struct ledger *ledger) {
        if (!ledger)
                return NULL;
        if (ledger->data)
                (void) munmap(ledger->data, LEDGER_SIZE);
        (void) fd_close(ledger->lock_fd);
        (void) fd_close(ledger->fd);
        free(ledger);
        return NULL;
}

int ledger_lock(struct ledger *ledger) {
        char path[64];

        if (ledger->lock_fd < 0) {
                (void) snprintf(path, sizeof path, "/proc/self/fd/%d", ledger->fd);
                ledger->lock_fd = open(path, O_RDWR | O_CLOEXEC);
        }
        if (ledger->lock_fd < 0 || flock(ledger->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return -errno;
        return 0;
}

struct ledger_peer *ledger_peer_take(struct ledger *ledger) {
        for (unsigned i = 0; i < LEDGER_PEERS_MAX; i++) {
                struct ledger_peer *entry = &ledger->data->peers[i];

                if (entry->id != 0 || atomic_exchange(&ledger->taken[i], true))
                        continue;
                ledger_peer_flip(entry, 0);
                ledger->data->marks[i].n = 0;
                return entry;
        }
        return NULL;
}

void ledger_peer_keep(struct ledger *ledger, struct ledger_peer *entry) {
        atomic_store(&ledger->taken[entry - ledger->data->peers], true);
}

void ledger_peer_enter(struct ledger_peer *entry, uint32_t id) {
        __atomic_store_n(&entry->id, id, __ATOMIC_RELEASE);
}

void ledger_peer_clear(struct ledger_peer *entry) {
        __atomic_store_n(&entry->id, 0, __ATOMIC_RELEASE);
}

void ledger_peer_release(struct ledger *ledger, struct ledger_peer *entry) {
        atomic_store(&ledger->taken[entry - ledger->data->peers], false);
}

struct ledger_mapping *ledger_peer_spare(struct ledger_peer *entry) {
        return entry->mappings[!(entry->valid & 1)];
}

void ledger_peer_flip(struct ledger_peer *entry, unsigned n_mappings) {
        uint32_t spare = !(entry->valid & 1);

        entry->n_mappings[spare] = n_mappings;
        __atomic_store_n(&entry->valid, spare, __ATOMIC_RELEASE);
}

/* A page and its memory in one word, which is never 0. */
#define MARK_VALID (1ull << 63)
#define MARK_MEMORY_SHIFT 48u

static struct ledger_marks *marks_of(const struct ledger *ledger, const struct ledger_peer *entry) {
        return &ledger->data->marks[entry - ledger->data->peers];
}

unsigned ledger_mark_enter(struct ledger *ledger, const struct ledger_peer *entry, uint32_t memory, uint64_t page) {
        struct ledger_marks *marks = marks_of(ledger, entry);
        uint64_t n = min_u64(marks->n, LEDGER_MARKS_MAX), place = 0;

        while (place < n && marks->pages[place] != 0)
                place++;
        if (place == LEDGER_MARKS_MAX)
                return LEDGER_MARKS_MAX;
        __atomic_store_n(&marks->pages[place], MARK_VALID | (uint64_t) memory << MARK_MEMORY_SHIFT | page, __ATOMIC_RELEASE);
        if (place == n)
                __atomic_store_n(&marks->n, n + 1, __ATOMIC_RELEASE);
        return (unsigned) place;
}

void ledger_mark_leave(struct ledger *ledger, const struct ledger_peer *entry, unsigned place) {
        __atomic_store_n(&marks_of(ledger, entry)->pages[place], 0, __ATOMIC_RELEASE);
}

bool ledger_mark_get(const struct ledger *ledger, const struct ledger_peer *entry, unsigned place, uint32_t *ret_memory,
                     uint64_t *ret_page) {
        const struct ledger_marks *marks = marks_of(ledger, entry);
        uint64_t word = place < min_u64(marks->n, LEDGER_MARKS_MAX) ? marks->pages[place] : 0;

        if (word == 0)
                return false;
        *ret_memory = word >> MARK_MEMORY_SHIFT & 0x7fff;
        *ret_page = word & ((1ull << MARK_MEMORY_SHIFT) - 1);
        return true;
}
