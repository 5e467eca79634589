/* SPDX-License-Identifier: MIT */
/*
 * A working set: which pages were wanted, when and by whom, as a file. Written by the broker, read by the broker (replay)
 * and by tools. pagebroker-workingset(5) is the contract.
 *
 * Host byte order, naturally aligned, padding zero. The header, then the three tables one after the other, without gaps.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "protocol/message.h"
#include "protocol/presence.h"

#define PB_WORKING_SET_MAGIC 0x00313030534b5750ull /* "PWKS001\0" */
#define PB_WORKING_SET_ENTRIES_MAX (1u << 20)
#define PB_WORKING_SET_CLIENTS_MAX 1024u

enum pb_working_set_flags {
        PB_WORKING_SET_TRUNCATED = 1u << 0, /* more was wanted than the tables hold */
        PB_WORKING_SET_FILL = 1u << 1,      /* the fill was on, and what it brought before was not seen to be wanted */
        PB_WORKING_SET_RESUMED = 1u << 2,   /* begun by a broker that carries on: what was wanted before is not in it */
};

enum pb_working_set_class {
        PB_WANTED_BY_FAULT = 0,  /* userfaultfd: a vCPU, or the VMM's own access */
        PB_WANTED_BY_DEVICE = 1, /* a linked client */
};

struct pb_working_set_header {
        uint64_t magic;
        uint32_t version; /* 1 */
        uint32_t flags;   /* PB_WORKING_SET_* */
        uint32_t n_memories;
        uint32_t n_clients;
        uint64_t n_entries;
        uint64_t size;        /* of the file, bytes */
        uint64_t started_us;  /* wall clock, microseconds since 1970 */
        uint64_t duration_us; /* from the start of the recording to its mark */
        char vm[PB_NAME_SIZE];
        uint64_t pages_present; /* that were there at the start, so that nobody could be seen to want them */
        uint8_t padding[32];
};

/* What the pages were taken from. Zeros where the source cannot tell. */
struct pb_working_set_memory {
        char name[PB_NAME_SIZE];
        uint64_t size;          /* bytes */
        uint64_t backing_size;  /* bytes */
        uint64_t source_offset; /* of the memory's first byte in the source */
        uint64_t source_size;   /* bytes */
        uint64_t device, inode; /* st_dev, st_ino */
        uint64_t modified_ns;   /* st_mtim, nanoseconds since 1970 */
        uint64_t reserved;
        char source[256];       /* "file:/srv/web1.img"; cut if longer */
};

struct pb_working_set_client {
        char name[PB_NAME_SIZE];
        uint32_t id;    /* of the session or userfaultfd */
        uint32_t class; /* enum pb_working_set_class */
};

/* Pages that were wanted, and absent, together. Each page is named once: when it was first wanted. */
struct pb_working_set_entry {
        uint64_t wanted_us; /* since the start; never less than in the entry before */
        uint64_t first_page;
        uint32_t n_pages; /* at least 1 */
        uint16_t memory;
        uint16_t client;
};

static_assert(sizeof(struct pb_working_set_header) == 128, "contract");
static_assert(sizeof(struct pb_working_set_memory) == 352, "contract");
static_assert(sizeof(struct pb_working_set_client) == 40, "contract");
static_assert(sizeof(struct pb_working_set_entry) == 24, "contract");

/* The largest file that working_set_check() can find nothing wrong with. */
#define PB_WORKING_SET_SIZE_MAX                                                                                       \
        (sizeof(struct pb_working_set_header) + PB_MEMORIES_MAX * sizeof(struct pb_working_set_memory) +              \
         PB_WORKING_SET_CLIENTS_MAX * sizeof(struct pb_working_set_client) +                                          \
         (uint64_t) PB_WORKING_SET_ENTRIES_MAX * sizeof(struct pb_working_set_entry))

struct working_set_view {
        const struct pb_working_set_header *header;
        const struct pb_working_set_memory *memories;
        const struct pb_working_set_client *clients;
        const struct pb_working_set_entry *entries;
};

static inline bool working_set_text_ends(const char *text, size_t size) {
        return memchr(text, 0, size) != NULL;
}

/*
 * Looks at a whole file of `size` bytes, which must not change any more, and says where its tables are. Returns NULL if
 * all is as it must be, and in words what is not: no name without an end, no page outside its memory, no index outside
 * its table.
 */
static inline const char *working_set_check(const void *file, uint64_t size, struct working_set_view *ret) {
        const struct pb_working_set_header *header = (const struct pb_working_set_header *) file;
        struct working_set_view view = { .header = header };
        uint64_t wanted_us = 0;

        if (size < sizeof *header || header->magic != PB_WORKING_SET_MAGIC)
                return "is not a working set";
        if (header->version != 1)
                return "is a working set of another version";
        if (header->n_memories > PB_MEMORIES_MAX || header->n_clients > PB_WORKING_SET_CLIENTS_MAX ||
            header->n_entries > PB_WORKING_SET_ENTRIES_MAX || header->size != size ||
            size != sizeof *header + header->n_memories * sizeof *view.memories +
                            header->n_clients * sizeof *view.clients + header->n_entries * sizeof *view.entries)
                return "is cut short, or longer than its tables";
        view.memories = (const struct pb_working_set_memory *) (header + 1);
        view.clients = (const struct pb_working_set_client *) (view.memories + header->n_memories);
        view.entries = (const struct pb_working_set_entry *) (const void *) (view.clients + header->n_clients);
        if (!working_set_text_ends(header->vm, sizeof header->vm))
                return "has a name without an end";
        for (uint32_t i = 0; i < header->n_memories; i++)
                if (!working_set_text_ends(view.memories[i].name, sizeof view.memories[i].name) ||
                    !working_set_text_ends(view.memories[i].source, sizeof view.memories[i].source))
                        return "has a name without an end";
        for (uint32_t i = 0; i < header->n_clients; i++)
                if (!working_set_text_ends(view.clients[i].name, sizeof view.clients[i].name) || view.clients[i].class > 1)
                        return "has a client that cannot be";
        for (uint64_t i = 0; i < header->n_entries; i++) {
                const struct pb_working_set_entry *entry = &view.entries[i];
                uint64_t n_pages;

                if (entry->memory >= header->n_memories || entry->client >= header->n_clients)
                        return "names a memory or a client that it does not describe";
                n_pages = view.memories[entry->memory].size / PB_PAGE_BYTES;
                if (entry->n_pages == 0 || entry->first_page >= n_pages || entry->n_pages > n_pages - entry->first_page)
                        return "names pages outside their memory";
                if (entry->wanted_us < wanted_us)
                        return "is not in the order of time";
                wanted_us = entry->wanted_us;
        }
        *ret = view;
        return NULL;
}
