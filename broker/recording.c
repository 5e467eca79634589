/* SPDX-License-Identifier: MIT */
#include "broker/recording.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "broker/memory.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"

/* #syscalls:broker ~write */

#define ENTRIES_SIZE (PB_WORKING_SET_ENTRIES_MAX * sizeof(struct pb_working_set_entry))

static void *reserve(uint64_t size) {
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return map == MAP_FAILED ? NULL : map;
}

static void forget_seen(struct recording *recording) {
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                if (recording->seen[i])
                        (void) munmap(PTR_TAKE(recording->seen[i]), recording->seen_size[i]);
}

struct recording *recording_free(struct recording *recording) {
        if (!recording)
                return NULL;
        forget_seen(recording);
        if (recording->entries)
                (void) munmap(recording->entries, ENTRIES_SIZE);
        free(recording);
        return NULL;
}

bool source_get_file(const struct source *source, struct pb_working_set_memory *ret) {
        if (source->fd < 0)
                return false;
        ret->device = source->identity[0];
        ret->inode = source->identity[1];
        ret->modified_ns = source->identity[3] * 1000000000ull + source->identity[4];
        return true;
}

static void describe(struct pb_working_set_memory *ret, const struct memory *memory) {
        const struct source *source = memory->source;

        *ret = (struct pb_working_set_memory) {
                .size = memory->size,
                .backing_size = memory->backing_size,
                .source_offset = memory->source_offset,
                .source_size = source->size,
        };
        (void) snprintf(ret->name, sizeof ret->name, "%s", memory->name);
        (void) snprintf(ret->source, sizeof ret->source, "%s", source->name ?: "");
        (void) source_get_file(source, ret);
}

int recording_new(struct recording **ret, const char *vm, struct memory *const memories[], unsigned n_memories) {
        struct recording *recording = calloc(1, sizeof *recording);
        struct timespec now;

        if (!recording)
                return -ENOMEM;
        recording->entries = reserve(ENTRIES_SIZE);
        if (!recording->entries)
                goto fail;
        (void) clock_gettime(CLOCK_REALTIME, &now);
        recording->header = (struct pb_working_set_header) {
                .magic = PB_WORKING_SET_MAGIC,
                .version = 1,
                .n_memories = n_memories,
                .started_us = (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / 1000,
        };
        (void) snprintf(recording->header.vm, sizeof recording->header.vm, "%s", vm);
        for (unsigned i = 0; i < n_memories; i++) {
                recording->seen_size[i] =
                        align_up((memories[i]->n_pages + SLICE_PAGES - 1) / SLICE_PAGES * 8, PB_PAGE_BYTES);
                recording->seen[i] = reserve(recording->seen_size[i]);
                if (!recording->seen[i])
                        goto fail;
                describe(&recording->memories[i], memories[i]);
                if (!atomic_load(&memories[i]->hidden))
                        recording->header.pages_present +=
                                atomic_load_explicit(&memories[i]->pages_present, memory_order_relaxed);
        }
        recording->start_us = clock_now_us();
        *ret = recording;
        return 0;

fail:
        (void) recording_free(recording);
        return -ENOMEM;
}

void recording_finish(struct recording *recording) {
        struct pb_working_set_header *header = &recording->header;

        forget_seen(recording);
        header->duration_us = clock_now_us() - recording->start_us;
        header->size = sizeof *header + header->n_memories * sizeof recording->memories[0] +
                       header->n_clients * sizeof recording->clients[0] +
                       header->n_entries * sizeof recording->entries[0];
}

struct part {
        const void *data;
        uint64_t size;
};

#define N_PARTS 4u

static void get_parts(const struct recording *recording, struct part ret[N_PARTS]) {
        const struct pb_working_set_header *header = &recording->header;

        ret[0] = (struct part) { header, sizeof *header };
        ret[1] = (struct part) { recording->memories, header->n_memories * sizeof recording->memories[0] };
        ret[2] = (struct part) { recording->clients, header->n_clients * sizeof recording->clients[0] };
        ret[3] = (struct part) { recording->entries, header->n_entries * sizeof recording->entries[0] };
}

void recording_copy(const struct recording *recording, uint64_t offset, uint64_t n, void *ret) {
        struct part parts[N_PARTS];
        uint8_t *to = ret;

        assert(range_fits(offset, n, recording->header.size));
        get_parts(recording, parts);
        for (unsigned i = 0; i < N_PARTS && n > 0; i++) {
                uint64_t here;

                if (offset >= parts[i].size) {
                        offset -= parts[i].size;
                        continue;
                }
                here = min_u64(n, parts[i].size - offset);
                memcpy(to, (const uint8_t *) parts[i].data + offset, here);
                to += here;
                n -= here;
                offset = 0;
        }
}

static int write_all(int fd, const void *data, uint64_t size) {
        for (uint64_t done = 0; done < size;) {
                ssize_t n = write(fd, (const char *) data + done, size - done);

                if (n < 0 && errno != EINTR)
                        return -errno;
                done += n > 0 ? (uint64_t) n : 0;
        }
        return 0;
}

int recording_write(const struct recording *recording, int fd) {
        struct part parts[N_PARTS];
        int r = 0;

        get_parts(recording, parts);
        for (unsigned i = 0; i < N_PARTS && r == 0; i++)
                r = write_all(fd, parts[i].data, parts[i].size);
        return r;
}
