/* SPDX-License-Identifier: MIT */
#include "broker/recorder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/memory.h"
#include "broker/recording.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"

struct recorder {
        atomic_bool on;
        pthread_mutex_t lock; /* a leaf; never held while memory is made or given back, or a file is written */
        struct recording *recording;
};

/* Pages that one client wants so soon after each other, side by side, are one entry. */
#define TOGETHER_US 1000u

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
        (void) recording_free(recorder->recording);
        (void) pthread_mutex_destroy(&recorder->lock);
        free(recorder);
        return NULL;
}

/* Who demands pages takes the lock too: it is held for a pointer. */
static struct recording *exchange(struct recorder *recorder, struct recording *recording) {
        struct recording *old;

        (void) pthread_mutex_lock(&recorder->lock);
        old = recorder->recording;
        recorder->recording = recording;
        atomic_store_explicit(&recorder->on, recording, memory_order_relaxed);
        (void) pthread_mutex_unlock(&recorder->lock);
        return old;
}

void recorder_start(struct recorder *recorder, struct recording *recording) {
        (void) recording_free(exchange(recorder, recording));
}

struct recording *recorder_stop(struct recorder *recorder) {
        struct recording *recording = exchange(recorder, NULL);

        if (recording)
                recording_finish(recording);
        return recording;
}

bool recorder_is_on(const struct recorder *recorder) {
        return atomic_load_explicit(&recorder->on, memory_order_relaxed);
}

void recorder_flag(struct recorder *recorder, uint32_t flags) {
        (void) pthread_mutex_lock(&recorder->lock);
        if (recorder->recording)
                recorder->recording->header.flags |= flags;
        (void) pthread_mutex_unlock(&recorder->lock);
}

void recorder_count(struct recorder *recorder, struct recorder_counters *ret) {
        const struct recording *recording;

        *ret = (struct recorder_counters) {};
        (void) pthread_mutex_lock(&recorder->lock);
        recording = recorder->recording;
        if (recording)
                *ret = (struct recorder_counters) {
                        .on = true,
                        .pages = recording->pages,
                        .entries = recording->header.n_entries,
                        .started_us = recording->header.started_us,
                };
        (void) pthread_mutex_unlock(&recorder->lock);
}

/* From the end: who has just wanted something wants more. -1: the table is full. */
static int find_client(struct recording *recording, const struct request_origin *origin, uint32_t class) {
        struct pb_working_set_client *client;

        for (unsigned i = recording->header.n_clients; i-- > 0;)
                if (recording->clients[i].id == origin->id && recording->clients[i].class == class)
                        return (int) i;
        if (recording->header.n_clients == PB_WORKING_SET_CLIENTS_MAX) {
                recording->header.flags |= PB_WORKING_SET_TRUNCATED;
                return -1;
        }
        client = &recording->clients[recording->header.n_clients];
        *client = (struct pb_working_set_client) { .id = origin->id, .class = class };
        (void) snprintf(client->name, sizeof client->name, "%s", origin->name);
        return (int) recording->header.n_clients++;
}

static void note_run(struct recording *recording, unsigned memory, uint64_t first, uint32_t n, uint16_t client,
                     uint64_t at_us) {
        struct pb_working_set_header *header = &recording->header;
        struct pb_working_set_entry *last = header->n_entries ? &recording->entries[header->n_entries - 1] : NULL;

        if (last && last->memory == memory && last->client == client && last->first_page + last->n_pages == first &&
            last->n_pages <= UINT32_MAX - n && at_us - last->wanted_us < TOGETHER_US)
                last->n_pages += n;
        else if (header->n_entries == PB_WORKING_SET_ENTRIES_MAX) {
                header->flags |= PB_WORKING_SET_TRUNCATED;
                return;
        } else
                recording->entries[header->n_entries++] = (struct pb_working_set_entry) {
                        .wanted_us = at_us,
                        .first_page = first,
                        .n_pages = n,
                        .memory = (uint16_t) memory,
                        .client = client,
                };
        recording->pages += n;
}

static void note(struct recording *recording, const struct memory *memory, uint64_t slice, uint64_t mask,
                 const struct request_origin *origin, enum request_class class) {
        uint64_t fresh = mask & ~recording->seen[memory->index][slice], at_us;
        int client;

        if (!fresh)
                return;
        client = find_client(recording, origin, class == CLASS_VCPU ? PB_WANTED_BY_FAULT : PB_WANTED_BY_DEVICE);
        if (client < 0)
                return;
        recording->seen[memory->index][slice] |= fresh;
        at_us = clock_now_us() - recording->start_us;
        while (fresh) {
                unsigned first, count;

                mask_first_run(fresh, &first, &count);
                note_run(recording, memory->index, slice * SLICE_PAGES + first, count, (uint16_t) client, at_us);
                fresh &= ~slice_mask(first, first + count - 1);
        }
}

void recorder_note(struct recorder *recorder, const struct memory *memory, uint64_t slice, uint64_t mask,
                   const struct request_origin *origin, enum request_class class) {
        (void) pthread_mutex_lock(&recorder->lock);
        /* Looked at again: the mark may have come since. */
        if (recorder->recording && memory->index < recorder->recording->header.n_memories)
                note(recorder->recording, memory, slice, mask, origin, class);
        (void) pthread_mutex_unlock(&recorder->lock);
}
