/* SPDX-License-Identifier: MIT */
/*
 * Broker and clients as threads of one process, over one mapping of each shared object, for ThreadSanitizer: it sees
 * the bytes being installed (by memcpy(), from a source of ours) and being read (by plain loads behind pb_ensure()),
 * and whether anything orders the two. What it cannot see, store-load order, is the models' part (tests/model).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/install.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/session.h"
#include "broker/source.h"
#include "client/client.h"
#include "common/cleanup.h"
#include "common/macro.h"

#define N_PAGES 16384u
#define N_CLIENTS 2u
#define N_THREADS 2u /* of each client */
#define N_ROUNDS 8000u

#define CHECK(condition)                                                                     \
        do {                                                                                 \
                if (!(condition)) {                                                          \
                        fprintf(stderr, "%s:%d: %s (%m)\n", __FILE__, __LINE__, #condition); \
                        exit(1);                                                             \
                }                                                                            \
        } while (0)

static uint64_t expected(uint64_t page, unsigned i) {
        return (page + 1) * 0x9e3779b97f4a7c15ull + i;
}

static void make_page(uint64_t page, uint64_t *words) {
        for (unsigned i = 0; i < PB_PAGE_BYTES / 8; i++)
                words[i] = expected(page, i);
}

/* ---- a source whose every third run is cold ---- */

static int source_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        *ret_data = true;
        *ret_length = length;
        return 0;
}

static ssize_t source_read_now(struct source *source, void *buffer, uint64_t offset, size_t length) {
        uint64_t first = offset / PB_PAGE_BYTES;

        if (first / 4 % 3 == 0)
                return -EAGAIN;
        for (uint64_t i = 0; i < length / PB_PAGE_BYTES; i++)
                make_page(first + i, (uint64_t *) (void *) ((char *) buffer + i * PB_PAGE_BYTES));
        return (ssize_t) length;
}

static int source_check(struct source *source) {
        return 0;
}

static uint64_t source_cold_mask(struct source *source, uint64_t offset, unsigned n_pages) {
        return 0;
}

static void source_drop_behind(struct source *source, uint64_t offset, uint64_t length) {
}

static void source_done(struct source *source) {
        (void) close(source->fd);
        free(source->name);
        free(source);
}

static struct source *make_source(void) {
        static const struct source_ops ops = {
                .scheme = "test",
                .extent = source_extent,
                .read_now = source_read_now,
                .check = source_check,
                .cold_mask = source_cold_mask,
                .drop_behind = source_drop_behind,
                .free = source_done,
        };
        struct source *source = calloc(1, sizeof *source);
        uint64_t page[PB_PAGE_BYTES / 8];

        CHECK(source);
        *source = (struct source) {
                .ops = &ops,
                .name = strdup("test:"),
                .size = N_PAGES * PB_PAGE_BYTES,
                .fd = memfd_create("source", MFD_CLOEXEC),
        };
        CHECK(source->fd >= 0);
        for (uint64_t i = 0; i < N_PAGES; i++) {
                make_page(i, page);
                CHECK(pwrite(source->fd, page, sizeof page, (off_t) (i * sizeof page)) == sizeof page);
        }
        return source;
}

/* ---- both sides ---- */

static void on_session_closed(void *data, struct session *session, const char *reason) {
        CHECK(!reason);
        (void) session_free(session);
}

static void on_completed(void *data) {
}

static void *shared(size_t size) {
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        CHECK(map != MAP_FAILED);
        return map;
}

static pb_client *connect_inside(struct pager *pager, struct memory *memory, uint64_t id) {
        struct client_parts parts = {
                .options = { .size = sizeof(struct pb_options), .role = PB_ROLE_DEVICE },
                .n_memories = 1,
                .n_regions = 1,
                .ring = shared(sizeof(struct pb_ring)),
                .socket = -1,
                .uffd_device = -1,
        };
        struct pb_session_state *state = shared(sizeof *state);
        struct session *session;
        pb_client *client;
        int pair[2];

        CHECK(client_complete_options(&parts.options, &parts.options) == 0);
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        parts.memories[0] = (struct client_memory) {
                .addr = (char *) memory->base,
                .size = memory->size,
                .backing_size = memory->backing_size,
                .fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 3),
                .map = memory->map,
                .map_size = presence_map_size(memory->n_pages),
                .present = memory->present,
                .poison = memory->poison,
        };
        parts.regions[0] = (struct link_region) { .size = memory->size };
        parts.state = state;
        parts.doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        parts.completion = pair[1];
        CHECK(session_new_from_parts(&session, id, PB_AS_DEVICE, "test", parts.ring, state,
                                     fcntl(parts.doorbell, F_DUPFD_CLOEXEC, 3), pair[0], memory->map->epoch) == 0);
        CHECK(client_new(&client, &parts) == 0);
        pager_add_session(pager, session);
        return client;
}

struct toucher {
        pthread_t thread;
        pb_client *client;
        unsigned seed;
};

/* Plain loads of pages that may have been brought by another client's request: the bit is all that orders them. */
static void *touch(void *arg) {
        struct toucher *toucher = arg;

        for (unsigned round = 0; round < N_ROUNDS; round++) {
                uint64_t page = (uint64_t) rand_r(&toucher->seed) % N_PAGES;
                uint64_t n = 1 + (uint64_t) rand_r(&toucher->seed) % 4;
                const uint64_t *words;

                n = min_u64(n, N_PAGES - page);
                CHECK(pb_ensure(toucher->client, page * PB_PAGE_BYTES, n * PB_PAGE_BYTES, PB_READ) == 0);
                words = pb_translate(toucher->client, page * PB_PAGE_BYTES, n * PB_PAGE_BYTES);
                CHECK(words);
                for (uint64_t i = 0; i < n; i++)
                        for (unsigned w = 0; w < PB_PAGE_BYTES / 8; w += 73)
                                CHECK(words[i * (PB_PAGE_BYTES / 8) + w] == expected(page + i, w));
        }
        return NULL;
}

int main(void) {
        const struct pager_events events = { .session_closed = on_session_closed, .completed = on_completed };
        const struct memory_options options = {
                .vm = "tsan", .name = "ram", .size = N_PAGES * PB_PAGE_BYTES, .backing_size = PB_PAGE_BYTES, .epoch = 1,
        };
        struct pager_options pager_options = PAGER_OPTIONS_DEFAULT;
        struct toucher touchers[N_CLIENTS * N_THREADS];
        pb_client *clients[N_CLIENTS];
        struct memory *memory;
        struct pager *pager;

        install_by_memcpy = 1;
        pager_options.reader = READER_THREADS;
        pager_options.fill = false;
        CHECK(memory_new(&memory, &options, NULL) == 0);
        memory->source = make_source();
        CHECK(pager_new(&pager, &pager_options, &events) == 0);
        CHECK(pager_add_memory(pager, memory) == 0);
        CHECK(pager_start(pager) == 0);
        for (unsigned i = 0; i < N_CLIENTS; i++)
                clients[i] = connect_inside(pager, memory, i + 1);
        for (unsigned i = 0; i < ELEMENTS(touchers); i++) {
                touchers[i] = (struct toucher) { .client = clients[i % N_CLIENTS], .seed = i + 1 };
                CHECK(pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]) == 0);
        }
        for (unsigned i = 0; i < ELEMENTS(touchers); i++)
                CHECK(pthread_join(touchers[i].thread, NULL) == 0);
        for (unsigned i = 0; i < N_CLIENTS; i++)
                pager_close_session(pager, i + 1);
        (void) pager_free(pager);
        for (unsigned i = 0; i < N_CLIENTS; i++)
                (void) pb_disconnect(clients[i]);
        (void) memory_free(memory);
        (void) puts("every page was right");
        return 0;
}
