/* SPDX-License-Identifier: MIT */
#include "broker/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "broker/memory.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/macro.h"
#include "protocol/working-set.h"

/* #syscalls:broker memfd_create ftruncate fcntl:cmd=F_ADD_SEALS ~write */

struct recorder {
        atomic_bool on;
        pthread_mutex_t lock; /* a leaf */
        uint64_t start_us;
        struct pb_working_set_header header;
        struct pb_working_set_memory memories[PB_MEMORIES_MAX];
        uint64_t *seen[PB_MEMORIES_MAX]; /* a word a slice; only what is touched costs memory */
        uint64_t seen_size[PB_MEMORIES_MAX];
        struct pb_working_set_client clients[PB_WORKING_SET_CLIENTS_MAX];
        struct pb_working_set_entry *entries;
        uint64_t pages;
};

#define ENTRIES_SIZE (PB_WORKING_SET_ENTRIES_MAX * sizeof(struct pb_working_set_entry))
/* Pages that one client wants so soon after each other, side by side, are one entry. */
#define TOGETHER_US 1000u

static void *reserve(uint64_t size) {
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return map == MAP_FAILED ? NULL : map;
}

static void forget(struct recorder *recorder) {
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                if (recorder->seen[i])
                        (void) munmap(recorder->seen[i], recorder->seen_size[i]);
        if (recorder->entries)
                (void) munmap(recorder->entries, ENTRIES_SIZE);
        memset(recorder->seen, 0, sizeof recorder->seen);
        recorder->entries = NULL;
        recorder->header = (struct pb_working_set_header) {};
        recorder->pages = 0;
}

int recorder_new(struct recorder **ret) {
        struct recorder *recorder = calloc(1, sizeof *recorder);

        if (!recorder)
                return -ENOMEM;
        (void) pthread_mutex_init(&recorder->lock, NULL);
        *ret = recorder;
        return 0;
}

struct recorder *recorder_free(struct recorder *recorder) {
        if (!recorder)
                return NULL;
        forget(recorder);
        (void) pthread_mutex_destroy(&recorder->lock);
        free(recorder);
        return NULL;
}

static void describe(struct pb_working_set_memory *ret, const struct memory *memory) {
        const struct source *source = memory->source;
        struct stat st;

        *ret = (struct pb_working_set_memory) {
                .size = memory->size,
                .backing_size = memory->backing_size,
                .source_offset = memory->source_offset,
                .source_size = source->size,
        };
        (void) snprintf(ret->name, sizeof ret->name, "%s", memory->name);
        (void) snprintf(ret->source, sizeof ret->source, "%s", source->name ?: "");
        if (source->fd < 0 || fstat(source->fd, &st) < 0)
                return;
        ret->device = st.st_dev;
        ret->inode = st.st_ino;
        ret->modified_ns = (uint64_t) st.st_mtim.tv_sec * 1000000000ull + (uint64_t) st.st_mtim.tv_nsec;
}

static int begin(struct recorder *recorder, const char *vm, struct memory *const memories[], unsigned n_memories) {
        struct timespec now;

        forget(recorder);
        recorder->entries = reserve(ENTRIES_SIZE);
        if (!recorder->entries)
                return -ENOMEM;
        for (unsigned i = 0; i < n_memories; i++) {
                recorder->seen_size[i] = align_up((memories[i]->n_pages + SLICE_PAGES - 1) / SLICE_PAGES * 8, PB_PAGE_BYTES);
                recorder->seen[i] = reserve(recorder->seen_size[i]);
                if (!recorder->seen[i])
                        return -ENOMEM;
                describe(&recorder->memories[i], memories[i]);
        }
        (void) clock_gettime(CLOCK_REALTIME, &now);
        recorder->header = (struct pb_working_set_header) {
                .magic = PB_WORKING_SET_MAGIC,
                .version = 1,
                .n_memories = n_memories,
                .started_us = (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / 1000,
        };
        (void) snprintf(recorder->header.vm, sizeof recorder->header.vm, "%s", vm);
        recorder->start_us = clock_now_us();
        return 0;
}

int recorder_start(struct recorder *recorder, const char *vm, struct memory *const memories[], unsigned n_memories) {
        int r;

        (void) pthread_mutex_lock(&recorder->lock);
        r = begin(recorder, vm, memories, n_memories);
        if (r < 0)
                forget(recorder);
        atomic_store_explicit(&recorder->on, r == 0, memory_order_relaxed);
        (void) pthread_mutex_unlock(&recorder->lock);
        return r;
}

bool recorder_is_on(const struct recorder *recorder) {
        return atomic_load_explicit(&recorder->on, memory_order_relaxed);
}

void recorder_count(struct recorder *recorder, struct recorder_counters *ret) {
        (void) pthread_mutex_lock(&recorder->lock);
        *ret = (struct recorder_counters) {
                .on = recorder_is_on(recorder),
                .pages = recorder->pages,
                .entries = recorder->header.n_entries,
                .since_us = recorder->start_us,
        };
        (void) pthread_mutex_unlock(&recorder->lock);
}

/* From the end: who has just wanted something wants more. -1: the table is full. */
static int find_client(struct recorder *recorder, const struct request_origin *origin, uint32_t class) {
        struct pb_working_set_client *client;

        for (unsigned i = recorder->header.n_clients; i-- > 0;)
                if (recorder->clients[i].id == origin->id && recorder->clients[i].class == class)
                        return (int) i;
        if (recorder->header.n_clients == PB_WORKING_SET_CLIENTS_MAX)
                return -1;
        client = &recorder->clients[recorder->header.n_clients];
        *client = (struct pb_working_set_client) { .id = origin->id, .class = class };
        (void) snprintf(client->name, sizeof client->name, "%s", origin->name);
        return (int) recorder->header.n_clients++;
}

static void note_run(struct recorder *recorder, unsigned memory, uint64_t first, uint32_t n, uint16_t client, uint64_t at_us) {
        struct pb_working_set_header *header = &recorder->header;
        struct pb_working_set_entry *last = header->n_entries ? &recorder->entries[header->n_entries - 1] : NULL;

        if (last && last->memory == memory && last->client == client && last->first_page + last->n_pages == first &&
            last->n_pages <= UINT32_MAX - n && at_us - last->wanted_us < TOGETHER_US)
                last->n_pages += n;
        else if (header->n_entries == PB_WORKING_SET_ENTRIES_MAX) {
                header->flags |= PB_WORKING_SET_TRUNCATED;
                return;
        } else
                recorder->entries[header->n_entries++] = (struct pb_working_set_entry) {
                        .wanted_us = at_us,
                        .first_page = first,
                        .n_pages = n,
                        .memory = (uint16_t) memory,
                        .client = client,
                };
        recorder->pages += n;
}

void recorder_note(struct recorder *recorder, const struct memory *memory, uint64_t slice, uint64_t mask,
                   const struct request_origin *origin, enum request_class class) {
        uint64_t fresh, at_us;
        int client;

        (void) pthread_mutex_lock(&recorder->lock);
        /* Looked at again: the mark may have come since. A memory that is younger than the recording is not in it. */
        if (!recorder_is_on(recorder) || memory->index >= recorder->header.n_memories)
                goto out;
        fresh = mask & ~recorder->seen[memory->index][slice];
        client = fresh ? find_client(recorder, origin, class == CLASS_VCPU ? PB_WANTED_BY_FAULT : PB_WANTED_BY_DEVICE) : -1;
        if (client < 0)
                goto out;
        recorder->seen[memory->index][slice] |= fresh;
        at_us = clock_now_us() - recorder->start_us;
        while (fresh) {
                unsigned first, count;

                mask_first_run(fresh, &first, &count);
                note_run(recorder, memory->index, slice * SLICE_PAGES + first, count, (uint16_t) client, at_us);
                fresh &= ~slice_mask(first, first + count - 1);
        }
out:
        (void) pthread_mutex_unlock(&recorder->lock);
}

static int write_all(int fd, const void *data, size_t size) {
        for (size_t done = 0; done < size;) {
                ssize_t n = write(fd, (const char *) data + done, size - done);

                if (n < 0)
                        return -errno;
                done += (size_t) n;
        }
        return 0;
}

static int save(struct recorder *recorder) {
        struct pb_working_set_header *header = &recorder->header;
        _cleanup_close_ int fd = -1;
        int r;

        header->duration_us = clock_now_us() - recorder->start_us;
        header->size = sizeof *header + header->n_memories * sizeof recorder->memories[0] +
                       header->n_clients * sizeof recorder->clients[0] + header->n_entries * sizeof recorder->entries[0];
        fd = memfd_new("pagebroker:working-set", 0, PB_PAGE_BYTES);
        if (fd < 0)
                return fd;
        r = write_all(fd, header, sizeof *header);
        if (r == 0)
                r = write_all(fd, recorder->memories, header->n_memories * sizeof recorder->memories[0]);
        if (r == 0)
                r = write_all(fd, recorder->clients, header->n_clients * sizeof recorder->clients[0]);
        if (r == 0)
                r = write_all(fd, recorder->entries, header->n_entries * sizeof recorder->entries[0]);
        if (r == 0)
                r = memfd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
        return r < 0 ? r : fd_take(&fd);
}

int recorder_stop(struct recorder *recorder) {
        int r = -ENODATA;

        (void) pthread_mutex_lock(&recorder->lock);
        if (recorder_is_on(recorder)) {
                atomic_store_explicit(&recorder->on, false, memory_order_relaxed);
                r = save(recorder);
                forget(recorder);
        }
        (void) pthread_mutex_unlock(&recorder->lock);
        return r;
}
