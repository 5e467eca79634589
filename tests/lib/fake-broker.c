/* SPDX-License-Identifier: MIT */
/* The shared objects of the fake broker, and its pager. The control socket is in fake-control.c. */
#include "tests/lib/fake-broker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/futex.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "tests/lib/process.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SEALS_SHARED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A test that cannot set itself up, also on a thread where Criterion's assertions do not work. */
static void must(bool condition, const char *what) {
        if (condition)
                return;
        (void) fprintf(stderr, "fake broker: %s: %s\n", what, strerror(errno));
        abort();
}

static void *new_object(const char *name, uint64_t size, uint64_t backing_size, int seals, int *ret_fd) {
        void *addr;

        *ret_fd = memfd_new(name, size, backing_size);
        must(*ret_fd >= 0, name);
        addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
        must(addr != MAP_FAILED, "mmap");
        must(memfd_seal(*ret_fd, seals) >= 0, "seal");
        return addr;
}

static void new_map(struct fake *fake, struct fake_memory *memory) {
        uint64_t n_pages = memory->n_pages;

        memory->map = new_object("fake:map", presence_map_size(n_pages), 4096, SEALS_SHARED | F_SEAL_FUTURE_WRITE,
                                 &memory->map_fd);
        *memory->map = (struct pb_map_header) {
                .magic = PB_MAP_MAGIC,
                .version = 1,
                .header_size = PB_MAP_HEADER_SIZE,
                .epoch = fake->epoch,
                .n_pages = n_pages,
                .backing_size = fake->options.backing_size,
                .present_offset = PB_MAP_HEADER_SIZE,
                .poison_offset = PB_MAP_HEADER_SIZE + presence_bitmap_size(n_pages),
                .map_size = presence_map_size(n_pages),
        };
        memory->present = (uint32_t *) (void *) ((char *) memory->map + memory->map->present_offset);
        memory->poison = (uint32_t *) (void *) ((char *) memory->map + memory->map->poison_offset);
}

static void new_memory(struct fake *fake, unsigned index) {
        struct fake_memory *memory = &fake->memories[index];
        uint64_t n_pages = fake->options.n_pages[index], backing = fake->options.backing_size;

        memory->n_pages = n_pages;
        memory->addr = new_object("fake:ram", n_pages * PB_PAGE_BYTES, backing, SEALS_SHARED, &memory->fd);
        new_map(fake, memory);
        if (fake->options.readonly) {
                int fd = memfd_reopen_readonly(memory->fd);

                must(fd >= 0, "reopen");
                (void) fd_close(memory->fd);
                memory->fd = fd;
        }
}

static void new_ring(struct fake *fake) {
        fake->ring = new_object("fake:ring", sizeof *fake->ring, 4096, SEALS_SHARED, &fake->ring_fd);
        fake->ring->magic = PB_RING_MAGIC;
        fake->ring->version = 1;
        fake->ring->n_slots = PB_RING_SLOTS;
}

/* What a session has of each epoch. */
static void new_state(struct fake *fake) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLET };
        int pair[2];

        fake->state = new_object("fake:state", sizeof *fake->state, 4096, SEALS_SHARED | F_SEAL_FUTURE_WRITE,
                                 &fake->state_fd);
        fake->state->magic = PB_STATE_MAGIC;
        fake->state->version = 1;
        fake->state->n_slots = PB_RING_SLOTS;
        fake->state->epoch = fake->epoch;
        fake->state->doorbell_needed = 1;
        fake->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        fake->epoll = epoll_create1(EPOLL_CLOEXEC);
        must(fake->doorbell >= 0 && fake->epoll >= 0, "eventfd, epoll");
        must(epoll_ctl(fake->epoll, EPOLL_CTL_ADD, fake->doorbell, &event) == 0, "epoll_ctl");
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        fake->completion = pair[0];
        fake->client_completion = pair[1];
}

static void default_regions(struct fake *fake) {
        uint64_t gpa = 0;

        if (fake->options.n_regions > 0)
                return;
        for (unsigned i = 0; i < fake->n_memories; i++) {
                fake->options.regions[i] = (struct pb_message_region) {
                        .memory = i,
                        .gpa = gpa,
                        .size = fake->memories[i].n_pages * PB_PAGE_BYTES,
                };
                gpa += fake->options.regions[i].size;
        }
        fake->options.n_regions = fake->n_memories;
}

struct fake *fake_new(const struct fake_options *options) {
        struct fake *fake = calloc(1, sizeof *fake);
        int pair[2];

        must(fake, "calloc");
        fake->listener = -1;
        fake->options = *options;
        fake->epoch = 1;
        fake->has_ring = true;
        if (!fake->options.backing_size)
                fake->options.backing_size = 4096;
        (void) pthread_mutex_init(&fake->lock, NULL);
        for (; fake->n_memories < PB_MEMORIES_MAX && options->n_pages[fake->n_memories]; fake->n_memories++)
                new_memory(fake, fake->n_memories);
        default_regions(fake);
        new_ring(fake);
        new_state(fake);
        fake->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        fake->socket = pair[0];
        fake->client_socket = pair[1];
        (void) snprintf(fake->address, sizeof fake->address, "fd:%d", fake->client_socket);
        return fake;
}

static void stop_thread(struct fake *fake, pthread_t thread, bool *has) {
        uint64_t one = 1;

        if (!*has)
                return;
        must(write(fake->stop, &one, sizeof one) == sizeof one, "write");
        (void) pthread_join(thread, NULL);
        *has = false;
}

static void stop_threads(struct fake *fake) {
        uint64_t count;

        /* `stop` stays readable until both have seen it. */
        stop_thread(fake, fake->pager, &fake->has_pager);
        stop_thread(fake, fake->control, &fake->has_control);
        must(read(fake->stop, &count, sizeof count) >= 0 || errno == EAGAIN, "read");
}

void fake_die(struct fake *fake) {
        stop_threads(fake);
        fake->socket = fd_close(fake->socket);
        fake->completion = fd_close(fake->completion);
}

/* Bits stay, poison does not. Nobody has the new objects before they have been sent. */
static void succeed_map(struct fake *fake, struct fake_memory *memory) {
        struct fake_memory old = *memory;

        new_map(fake, memory);
        memcpy(memory->present, old.present, presence_bitmap_size(memory->n_pages));
        memory->map->complete = old.map->complete;
        (void) munmap(old.map, presence_map_size(old.n_pages));
        (void) fd_close(old.map_fd);
}

void fake_succeed(struct fake *fake) {
        int *fds[] = { &fake->state_fd, &fake->doorbell, &fake->client_completion, &fake->epoll };

        fake->epoch++;
        __atomic_store_n(&fake->has_ring, false, __ATOMIC_SEQ_CST);
        for (unsigned i = 0; i < fake->n_memories; i++)
                succeed_map(fake, &fake->memories[i]);
        for (size_t i = 0; i < ELEMENTS(fds); i++)
                *fds[i] = fd_close(*fds[i]);
        (void) munmap(fake->state, sizeof *fake->state);
        memset(fake->pending, 0, sizeof fake->pending);
        new_state(fake);
}

void fake_free(struct fake *fake) {
        int *fds[] = { &fake->client_socket,     &fake->ring_fd, &fake->state_fd, &fake->doorbell,
                       &fake->client_completion, &fake->epoll,   &fake->stop,     &fake->listener };

        fake_die(fake);
        if (fake->address[0] == '/')
                (void) unlink(fake->address);
        for (size_t i = 0; i < ELEMENTS(fds); i++)
                *fds[i] = fd_close(*fds[i]);
        for (unsigned i = 0; i < fake->n_calls && i < FAKE_CALLS_MAX; i++)
                (void) fd_close(fake->calls[i].fd);
        for (unsigned i = 0; i < fake->n_memories; i++) {
                struct fake_memory *memory = &fake->memories[i];

                (void) fd_close(memory->fd);
                (void) fd_close(memory->map_fd);
                (void) munmap(memory->addr, memory->n_pages * PB_PAGE_BYTES);
                (void) munmap(memory->map, presence_map_size(memory->n_pages));
        }
        (void) munmap(fake->ring, sizeof *fake->ring);
        (void) munmap(fake->state, sizeof *fake->state);
        (void) pthread_mutex_destroy(&fake->lock);
        free(fake);
}

/* ---- pages ---- */

uint64_t fake_word(unsigned memory, uint64_t page) {
        return (page + 1) * 0x9e3779b97f4a7c15ull ^ (uint64_t) (memory + 1) << 40;
}

bool fake_page_is_right(const void *addr, unsigned memory, uint64_t page) {
        const uint64_t *words = addr;

        for (unsigned i = 0; i < PB_PAGE_BYTES / 8; i++)
                if (words[i] != fake_word(memory, page))
                        return false;
        return true;
}

static void publish_page(struct fake_memory *memory, unsigned index, uint64_t page, bool wake) {
        uint32_t *word = &memory->present[presence_word(page)];
        uint32_t mask = 1u << page % 32;

        if (!(order_present_load(word) & mask))
                for (unsigned i = 0; i < PB_PAGE_BYTES / 8; i++)
                        ((uint64_t *) (void *) (memory->addr + page * PB_PAGE_BYTES))[i] = fake_word(index, page);
        (void) order_present_publish(word, mask);
        if (wake)
                (void) futex_wake_bitset(word, mask);
}

void fake_publish(struct fake *fake, unsigned memory, uint64_t first_page, uint64_t n_pages) {
        for (uint64_t i = 0; i < n_pages; i++)
                publish_page(&fake->memories[memory], memory, first_page + i, true);
}

void fake_publish_silently(struct fake *fake, unsigned memory, uint64_t first_page, uint64_t n_pages) {
        for (uint64_t i = 0; i < n_pages; i++)
                publish_page(&fake->memories[memory], memory, first_page + i, false);
}

void fake_poison(struct fake *fake, unsigned memory, uint64_t page) {
        order_poison_set(&fake->memories[memory].poison[presence_word(page)], 1u << page % 32);
}

/* ---- requests ---- */

static void bump(struct fake *fake) {
        if (order_event_bump(&fake->state->event, &fake->ring->sleepers))
                (void) futex_wake_all(&fake->state->event);
}

static void harvest_ring(struct fake *fake) {
        uint32_t summary = 0;

        if (__atomic_load_n(&fake->has_ring, __ATOMIC_SEQ_CST))
                summary = order_request_take_summary(&fake->ring->summary);
        for (; summary; summary &= summary - 1) {
                unsigned word = (unsigned) __builtin_ctz(summary);

                fake->pending[word] |= order_request_take(&fake->ring->ready[word]);
        }
}

static bool take_pending(struct fake *fake, struct fake_request *ret) {
        for (unsigned i = 0; i < PB_RING_READY_WORDS; i++) {
                struct pb_slot *slot;
                uint32_t head;

                if (!fake->pending[i])
                        continue;
                ret->slot = i * 64 + (unsigned) __builtin_ctzll(fake->pending[i]);
                fake->pending[i] &= fake->pending[i] - 1;
                slot = &fake->ring->slots[ret->slot];
                ret->sequence = order_slot_load_sequence(&slot->sequence);
                /* Being written, or taken before: its ready bit was set twice. */
                if (ret->sequence == 0 || ret->sequence == outcome_sequence(fake->state->outcome[ret->slot])) {
                        i--;
                        continue;
                }
                head = order_slot_load32((const uint32_t *) (const void *) &slot->op);
                ret->op = head & 0xff;
                ret->flags = head >> 8 & 0xff;
                ret->n_ranges = head >> 16;
                must(ret->n_ranges >= 1 && ret->n_ranges <= PB_SLOT_RANGES && ret->sequence != 0, "malformed slot");
                for (unsigned j = 0; j < ret->n_ranges; j++) {
                        ret->ranges[j].first_page = order_slot_load64(&slot->ranges[j].first_page);
                        ret->ranges[j].n_pages = order_slot_load64(&slot->ranges[j].n_pages);
                        ret->ranges[j].memory = order_slot_load32(&slot->ranges[j].memory);
                        ret->ranges[j].intent = order_slot_load32(&slot->ranges[j].intent);
                }
                order_outcome_store(&fake->state->outcome[ret->slot], outcome_make(ret->sequence, PB_OUTCOME_TAKEN));
                return true;
        }
        return false;
}

/* Waits for the doorbell (edge-triggered, as a broker that never reads it) or `stop`. */
static bool wait_doorbell(struct fake *fake, uint64_t deadline_us) {
        struct epoll_event event;
        struct pollfd pollfds[2] = {
                { .fd = fake->epoll, .events = POLLIN },
                { .fd = fake->stop, .events = POLLIN },
        };
        uint64_t now_us = clock_now_us();

        if (now_us >= deadline_us)
                return false;
        if (poll(pollfds, 2, (int) ((deadline_us - now_us) / USEC_PER_MSEC) + 1) < 0 && errno != EINTR)
                return false;
        (void) epoll_wait(fake->epoll, &event, 1, 0);
        return !(pollfds[1].revents & POLLIN);
}

bool fake_take(struct fake *fake, struct fake_request *ret, int timeout_ms) {
        uint64_t deadline_us = clock_now_us() + (uint64_t) timeout_ms * USEC_PER_MSEC;

        for (;;) {
                order_disarm_doorbell(&fake->state->doorbell_needed);
                harvest_ring(fake);
                if (take_pending(fake, ret))
                        return true;
                order_arm_doorbell(&fake->state->doorbell_needed);
                order_after_arm();
                if (fake->has_ring && order_request_is_pending(&fake->ring->summary))
                        continue;
                if (!wait_doorbell(fake, deadline_us))
                        return false;
        }
}

void fake_post_completion(struct fake *fake, uint32_t slot) {
        uint32_t tail = order_hint_load32(&fake->state->completion_tail);

        order_completion_post(&fake->state->completions[tail % PB_RING_SLOTS], slot, &fake->state->completion_tail,
                              tail + 1);
        (void) send(fake->completion, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void fake_answer(struct fake *fake, const struct fake_request *request, int result) {
        order_outcome_store(&fake->state->outcome[request->slot], outcome_make(request->sequence, result));
        if (request->flags & PB_SLOT_ASYNC)
                fake_post_completion(fake, request->slot);
        bump(fake);
}

void fake_satisfy(struct fake *fake, const struct fake_request *request) {
        for (unsigned i = 0; i < request->n_ranges; i++)
                fake_publish(fake, request->ranges[i].memory, request->ranges[i].first_page,
                             request->ranges[i].n_pages);
        fake_answer(fake, request, 0);
}

static void *pager_thread(void *userdata) {
        struct fake *fake = userdata;
        struct fake_request request;

        while (fake_take(fake, &request, 3600 * 1000))
                fake_satisfy(fake, &request);
        return NULL;
}

void fake_serve(struct fake *fake) {
        must(pthread_create(&fake->pager, NULL, pager_thread, fake) == 0, "pthread_create");
        fake->has_pager = true;
}

void fake_close_session(struct fake *fake) {
        order_hint_store32(&fake->state->closed, 1);
        bump(fake);
}

uint64_t fake_count_doorbells(struct fake *fake) {
        uint64_t count;

        return read(fake->doorbell, &count, sizeof count) == sizeof count ? count : 0;
}

void fake_wait_sleepers(struct fake *fake, uint32_t n) {
        uint64_t deadline_us = clock_now_us() + TEST_PATIENCE_US;

        while (order_hint_load32(&fake->ring->sleepers) < n) {
                must(clock_now_us() < deadline_us, "nobody sleeps");
                (void) sched_yield();
        }
}
