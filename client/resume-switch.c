/* SPDX-License-Identifier: MIT */
/*
 * The moment of a resume: another broker's objects take the place of the old ones', under the feet of threads that look at
 * them. Pointers that the inline fast path has read stay right: mremap() puts the new pages where the old ones were, in
 * one step for everybody else, and so does dup3() with descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/completion.h"
#include "client/map.h"
#include "client/resume.h"
#include "client/slot.h"
#include "common/cleanup.h"
#include "common/futex.h"
#include "common/macro.h"
#include "protocol/order.h"

/* Mapped, looked through, and not in place yet. */
struct successor {
        const pb_client *client;
        const struct pb_session_state *state;
        const struct pb_map_header *maps[PB_MEMORIES_MAX];
};

static void successor_done(struct successor *successor) {
        const pb_client *client = successor->client;

        if (successor->state)
                (void) munmap((void *) successor->state, sizeof *successor->state);
        for (unsigned i = 0; i < client->n_memories; i++)
                if (successor->maps[i])
                        (void) munmap((void *) successor->maps[i], client->memories[i].map_size);
}

/* What was present stays present: a broker that forgot a page would fetch over what has been written to it. The old map
 * does not change any more. */
static bool map_carries_on(const struct pb_map_header *map, const struct client_memory *memory) {
        const uint32_t *present = (const uint32_t *) (const void *) ((const char *) map + map->present_offset);

        if (map->present_offset != memory->map->present_offset || map->poison_offset != memory->map->poison_offset)
                return false;
        for (uint64_t i = 0; i < presence_bitmap_size(map->n_pages) / sizeof *present; i++)
                if (order_present_load(&memory->present[i]) & ~order_present_load(&present[i]))
                        return false;
        return true;
}

static bool is_our_ring(const pb_client *client, const struct link_session *session) {
        struct stat ours, theirs;

        return session->flags & PB_SESSION_RESUMED && fstat(client->ring_fd, &ours) == 0 &&
               fstat(session->ring_fd, &theirs) == 0 && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static int successor_open(struct successor *successor, const struct link *link) {
        const pb_client *client = successor->client;
        int r;

        if (!link_carries_on(link, &client->resume.origin, client_get_held(client), client_get_partial(client)))
                return -ESTALE;
        for (unsigned i = 0; client->role != PB_ROLE_OBSERVER && i < client->n_memories; i++) {
                if (!client->memories[i].held)
                        continue;
                r = map_presence(&link->memories[i], link->epoch, &successor->maps[i]);
                if (r < 0)
                        return r;
                if (!map_carries_on(successor->maps[i], &client->memories[i]))
                        return -EPROTO;
        }
        if (!client->ring)
                return 0;
        return is_our_ring(client, &link->session) ? map_state(link, &successor->state) : -EPROTO;
}

/* Cannot fail for a reason that was not there when the new mapping was made, but for a kernel that is out of memory in
 * the middle of it: then there may be nothing at the old address, and zeros have to go there: absent, and no outcome. */
static int put_in_place(const void **from, const void *at, uint64_t size) {
        if (mremap((void *) *from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *) at) == MAP_FAILED) {
                int r = -errno;

                (void) mmap((void *) at, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                return r;
        }
        *from = NULL;
        return 0;
}

static int put_all_in_place(pb_client *client, struct successor *successor) {
        int r = 0;

        if (successor->state)
                r = put_in_place((const void **) &successor->state, client->state, sizeof *client->state);
        for (unsigned i = 0; r >= 0 && i < client->n_memories; i++)
                if (successor->maps[i])
                        r = put_in_place((const void **) &successor->maps[i], client->memories[i].map,
                                         client->memories[i].map_size);
        return r;
}

static int replace_fd(int *fd, int old) {
        if (old < 0)
                return 0;
        if (dup3(*fd, old, O_CLOEXEC) < 0)
                return -errno;
        *fd = fd_close(*fd);
        return 0;
}

static int replace_fds(pb_client *client, struct link *link) {
        struct epoll_event event = { .events = EPOLLIN };
        int r;

        r = replace_fd(&link->session.doorbell_fd, client->doorbell);
        if (r >= 0)
                r = replace_fd(&link->session.completion_fd, client->completion);
        if (r >= 0)
                r = replace_fd(&link->socket, client->socket);
        if (r >= 0 && client->ring &&
            ((epoll_ctl(client->poll_fd, EPOLL_CTL_ADD, client->completion, &event) < 0 && errno != EEXIST) ||
             (epoll_ctl(client->poll_fd, EPOLL_CTL_ADD, client->socket, &event) < 0 && errno != EEXIST)))
                r = -errno;
        if (r >= 0 && client->uffd_device < 0)
                client->uffd_device = fd_take(&link->uffd_device_fd);
        return r;
}

void client_park_poll_fd(pb_client *client) {
        (void) epoll_ctl(client->poll_fd, EPOLL_CTL_DEL, client->completion, NULL);
        (void) epoll_ctl(client->poll_fd, EPOLL_CTL_DEL, client->socket, NULL);
}

/* The asynchronous requests that are under way, out of the harvesters' reach. One that has taken an entry of the old
 * queue before `completion_cursor` was frozen either finds its slot, then that is its own, or not, then it is ours
 * and asked for again: never both (model: epoch.pml ASYNC RESEND_SHARED). */
static void take_requests(pb_client *client, uint64_t *ret_async) {
        __atomic_store_n(&client->completion_cursor, (uint64_t) client_generation(client) << 32, __ATOMIC_SEQ_CST);
        memset(ret_async, 0, CLIENT_BITMAP_WORDS * sizeof *ret_async);
        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                if (__atomic_load_n(&client->async[i], __ATOMIC_SEQ_CST) != 0 &&
                    __atomic_exchange_n(&client->async[i], 0, __ATOMIC_SEQ_CST) != 0)
                        ret_async[i / 64] |= 1ull << i % 64;
}

/* With another value than before: who still remembers the old one is too late. */
static void give_requests_back(pb_client *client, const uint64_t *async) {
        uint32_t generation = client_generation(client) + 1;

        for (unsigned i = 0; i < PB_RING_SLOTS; i++)
                if (async[i / 64] & 1ull << i % 64)
                        __atomic_store_n(&client->async[i], completion_claim(client, i, generation), __ATOMIC_SEQ_CST);
}

static void push_requests(pb_client *client, const uint64_t *async) {
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++)
                if (async[i])
                        order_request_push(&client->ring->ready[i], async[i], &client->ring->summary, 1u << i);
        order_after_push();
}

/* Harvesters first: their bits are back, and a waiter that sees the generation may ask for the slots of zombies. */
static void announce(pb_client *client) {
        uint32_t generation = client_generation(client) + 1;

        __atomic_store_n(&client->completion_cursor, (uint64_t) generation << 32, __ATOMIC_SEQ_CST);
        __atomic_store_n(&client->generation, generation, __ATOMIC_SEQ_CST);
        (void) futex_wake_all(&client->generation);
}

int client_switch(pb_client *client, struct link *link) {
        _cleanup_(successor_done) struct successor successor = { .client = client };
        uint64_t async[CLIENT_BITMAP_WORDS];
        int r;

        r = successor_open(&successor, link);
        if (r < 0)
                return r;
        take_requests(client, async);
        r = put_all_in_place(client, &successor);
        if (r >= 0)
                r = replace_fds(client, link);
        give_requests_back(client, async);
        if (r < 0)
                return r;
        client->resume.epoch = link->epoch;
        client_note_memories(client, link);
        client_remember_files(client);
        if (client->ring)
                push_requests(client, async);
        announce(client);
        if (client->ring) {
                slots_ring(client);
                completion_signal_leftovers(client);
        }
        client_note_complete(client);
        return 0;
}
