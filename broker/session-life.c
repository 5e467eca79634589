/* SPDX-License-Identifier: MIT */
/* A session's objects that its client shares: made, taken over from the broker before, given back. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "broker/session.h"
#include "broker/tally.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "protocol/presence.h"

/* #syscalls:broker shutdown eventfd2
 * socketpair:arg0=AF_UNIX:arg1=SOCK_STREAM+SOCK_CLOEXEC+SOCK_NONBLOCK fcntl:cmd=F_DUPFD_CLOEXEC madvise:advice=MADV_DONTFORK */

int session_new_from_parts(struct session **ret, uint64_t id, enum pb_role role, const char *name, struct pb_ring *ring,
                           struct pb_session_state *state, int doorbell, int completion, uint64_t epoch) {
        struct session *session = calloc(1, sizeof *session);

        if (!session)
                return -ENOMEM;
        assert(ring && state);
        session->id = id;
        session->role = role;
        session->limits = SESSION_LIMITS_DEFAULT;
        (void) snprintf(session->name, sizeof session->name, "%s", name);
        session->origin.id = (uint32_t) id;
        session->origin.key = id << 1;
        memcpy(session->origin.name, session->name, sizeof session->origin.name);
        session->ring = ring;
        session->state = state;
        session->doorbell = doorbell;
        session->completion = completion;
        ring->magic = PB_RING_MAGIC;
        ring->version = 1;
        ring->n_slots = PB_RING_SLOTS;
        state->magic = PB_STATE_MAGIC;
        state->version = 1;
        state->n_slots = PB_RING_SLOTS;
        state->epoch = epoch;
        /* Until the pager knows the session nobody would see a push: ring, and the pager finds it when it adds it. */
        order_arm_doorbell(&state->doorbell_needed);
        *ret = session;
        return 0;
}

/* A shared object of a session: `ret_fd` is the client's. */
static int shared_object(const char *what, uint64_t id, size_t size, int seals, void **ret_map, int *ret_fd) {
        _cleanup_close_ int fd = -1;
        char name[64];
        void *map;
        int r;

        (void) snprintf(name, sizeof name, "pagebroker:%s:%llu", what, (unsigned long long) id);
        fd = memfd_new(name, size, PB_PAGE_BYTES);
        if (fd < 0)
                return fd;
        map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                return -errno;
        /* After our writable mapping: F_SEAL_FUTURE_WRITE stops every later one, ours too. */
        r = memfd_seal(fd, seals);
        if (r < 0) {
                (void) munmap(map, size);
                return r;
        }
        (void) madvise(map, size, MADV_DONTFORK);
        *ret_map = map;
        *ret_fd = fd_take(&fd);
        return 0;
}

/*
 * What was pushed before is pushed again by the client once it has the new state: it alone knows what is outstanding. A
 * ready bit that is left over, of a discard that was answered, must not be found: there may be data in its range by now.
 */
static void forget_pushes(struct pb_ring *ring) {
        (void) order_request_take_summary(&ring->summary);
        for (unsigned i = 0; i < PB_RING_READY_WORDS; i++)
                (void) order_request_take(&ring->ready[i]);
}

static int map_ring(int fd, void **ret_map) {
        void *map = mmap(NULL, sizeof(struct pb_ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (map == MAP_FAILED)
                return -errno;
        (void) madvise(map, sizeof(struct pb_ring), MADV_DONTFORK);
        *ret_map = map;
        return 0;
}

int session_new(struct session **ret, uint64_t id, enum pb_role role, const char *name, uint64_t epoch, int old_ring,
                int ret_fds[4]) {
        int pair[2] = { -1, -1 }, fds[4] = { old_ring, -1, -1, -1 }, doorbell = -1, r;
        void *ring = NULL, *state = NULL;

        if (old_ring >= 0)
                r = map_ring(old_ring, &ring);
        else
                r = shared_object("ring", id, sizeof(struct pb_ring), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, &ring,
                                  &fds[0]);
        if (r < 0)
                goto fail;
        r = shared_object("state", id, sizeof(struct pb_session_state),
                          F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL, &state, &fds[1]);
        if (r < 0)
                goto fail;
        r = -EMFILE;
        fds[2] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        doorbell = fds[2] < 0 ? -1 : fcntl(fds[2], F_DUPFD_CLOEXEC, 3);
        if (doorbell < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                goto fail;
        /* We only write: nothing that could be left unread, a descriptor whose last close() hangs, gets in. */
        (void) shutdown(pair[0], SHUT_RD);
        fds[3] = pair[1];
        r = session_new_from_parts(ret, id, role, name, ring, state, doorbell, pair[0], epoch);
        if (r < 0)
                goto fail;
        (*ret)->owns_maps = true;
        if (old_ring >= 0)
                forget_pushes((*ret)->ring);
        memcpy(ret_fds, fds, sizeof fds);
        return 0;

fail:
        for (unsigned i = 0; i < 3; i++)
                (void) fd_close(fds[i]);
        (void) fd_close(doorbell);
        (void) fd_close(pair[0]);
        (void) fd_close(pair[1]);
        if (ring)
                (void) munmap(ring, sizeof(struct pb_ring));
        if (state)
                (void) munmap(state, sizeof(struct pb_session_state));
        return r;
}

struct session *session_free(struct session *session) {
        if (!session)
                return NULL;
        assert(session_is_drained(session) && session->n_waits == 0 && session->n_prefetches == 0);
        if (session->owns_maps) {
                (void) munmap(session->ring, sizeof(struct pb_ring));
                (void) munmap(session->state, sizeof(struct pb_session_state));
        }
        (void) fd_close(session->doorbell);
        (void) fd_close(session->completion);
        session->tally = tally_unref(session->tally);
        free(session);
        return NULL;
}
