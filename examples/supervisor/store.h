/* SPDX-License-Identifier: MIT */
/* Descriptors that outlive the broker, under the names that it gave them. */
#pragma once

struct store_entry {
        char name[256];
        int fd;
};

struct store {
        struct store_entry *entries;
        unsigned n_entries, max;
};

int store_init(struct store *store, unsigned max);
void store_done(struct store *store);

/* Takes `fd`. The same open file is kept once, under its first name, as systemd does it. -ENOSPC: full. */
int store_add(struct store *store, const char *name, int fd);
void store_remove(struct store *store, const char *name);
