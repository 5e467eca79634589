/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"

int store_init(struct store *store, unsigned max) {
        *store = (struct store) { .max = max, .entries = calloc(max, sizeof *store->entries) };
        return store->entries || max == 0 ? 0 : -ENOMEM;
}

void store_done(struct store *store) {
        for (unsigned i = 0; i < store->n_entries; i++)
                (void) close(store->entries[i].fd);
        free(store->entries);
        *store = (struct store) {};
}

static bool is_same_file(int a, int b) {
        return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0;
}

int store_add(struct store *store, const char *name, int fd) {
        _cleanup_close_ int taken = fd;
        struct store_entry *entry;

        for (unsigned i = 0; i < store->n_entries; i++)
                if (is_same_file(store->entries[i].fd, fd))
                        return 0;
        if (store->n_entries == store->max)
                return -ENOSPC;
        entry = &store->entries[store->n_entries++];
        (void) snprintf(entry->name, sizeof entry->name, "%s", name);
        entry->fd = fd_take(&taken);
        return 0;
}

void store_remove(struct store *store, const char *name) {
        unsigned keep = 0;

        for (unsigned i = 0; i < store->n_entries; i++)
                if (strcmp(store->entries[i].name, name) == 0)
                        (void) close(store->entries[i].fd);
                else
                        store->entries[keep++] = store->entries[i];
        store->n_entries = keep;
}
