/* SPDX-License-Identifier: MIT */
#include "client/failure.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By the raw calls: gettid() and tgkill() of the C library are not on the list of signal-safe functions. */
static uint32_t own_tid(void) {
        return (uint32_t) syscall(SYS_gettid);
}

static bool thread_is_gone(uint32_t tid) {
        return syscall(SYS_tgkill, getpid(), tid, 0) < 0 && errno == ESRCH;
}

static bool entry_claim(struct failure_entry *entry, uint32_t old, uint32_t tid) {
        return __atomic_compare_exchange_n(&entry->tid, &old, tid, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Entries are replaced but never freed, so a search may stop at the first free one. */
static struct failure_entry *find(struct failure_table *table, uint32_t tid, bool claim) {
        for (unsigned i = 0; i < FAILURE_THREADS_MAX; i++) {
                struct failure_entry *entry = &table->entries[(tid + i) % FAILURE_THREADS_MAX];
                uint32_t owner = __atomic_load_n(&entry->tid, __ATOMIC_ACQUIRE);

                if (owner == tid)
                        return entry;
                if (owner != 0)
                        continue;
                if (!claim)
                        return NULL;
                if (entry_claim(entry, 0, tid))
                        return entry;
                if (__atomic_load_n(&entry->tid, __ATOMIC_ACQUIRE) == tid) /* a handler of this thread was faster */
                        return entry;
        }
        return NULL;
}

static struct failure_entry *replace_dead(struct failure_table *table, uint32_t tid) {
        for (unsigned i = 0; i < FAILURE_THREADS_MAX; i++) {
                struct failure_entry *entry = &table->entries[(tid + i) % FAILURE_THREADS_MAX];
                uint32_t owner = __atomic_load_n(&entry->tid, __ATOMIC_ACQUIRE);

                if (thread_is_gone(owner) && entry_claim(entry, owner, tid))
                        return entry;
        }
        return NULL;
}

#define put(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

int failure_record(struct failure_table *table, const struct failure *failure) {
        uint32_t tid = own_tid(), turn;
        struct failure_entry *entry;
        int saved = errno;

        entry = find(table, tid, true) ?: replace_dead(table, tid);
        errno = saved;
        if (!entry)
                return failure->error;
        /* A signal handler that fails in the middle of this counts the turn up; then write again, so that the fields
         * belong together. */
        do {
                turn = __atomic_add_fetch(&entry->turn, 1, __ATOMIC_RELAXED);
                put(entry->call, failure->call);
                put(entry->error, failure->error);
                put(entry->place_kind, failure->place_kind);
                put(entry->memory, failure->memory);
                put(entry->place, failure->place);
        } while (__atomic_load_n(&entry->turn, __ATOMIC_RELAXED) != turn);
        return failure->error;
}

struct failure_entry *failure_find(struct failure_table *table) {
        return find(table, own_tid(), false);
}
