/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/packet.h"
#include "protocol/order.h"
#include "protocol/presence.h"
#include "seccomp/filter.h"
#include "sources/nbd/nbd.h"

static int say(const struct worker *worker, const struct pb_helper_opened *opened) {
        return packet_send(worker->socket, opened, sizeof *opened, NULL, 0, 0);
}

void worker_opened(struct worker *worker, struct connection *connection, const char *identity) {
        struct pb_helper_opened opened = {
                .magic = PB_HELPER_MAGIC,
                .size = (uint64_t) nbd_get_size(connection->nbd),
                .flags = worker->options->release ? PB_HELPER_WANTS_INSTALLED : 0,
        };

        worker->opened = true;
        (void) snprintf(worker->identity, sizeof worker->identity, "%s", identity);
        worker->depth = (unsigned) min_u64(PB_HELPER_DEPTH_MAX,
                                           (uint64_t) CONNECTION_DEPTH * (nbd_can_multi_conn(connection->nbd) > 0
                                                                                  ? worker->options->connections
                                                                                  : 1));
        opened.depth = worker->depth;
        memcpy(opened.text, worker->identity, sizeof opened.text);
        if (worker->options->release && nbd_can_trim(connection->nbd) <= 0)
                log_notice("release=1: the server does not take trims; nothing is released");
        if (say(worker, &opened) < 0)
                worker->end = true;
        worker_connect_others(worker, connection);
}

void worker_connect_others(struct worker *worker, const struct connection *connection) {
        /* A server that does not advertise it may show each connection something else. */
        if (nbd_can_multi_conn(connection->nbd) > 0)
                worker->n_connections = worker->options->connections;
}

static int worker_map(struct worker *worker) {
        struct pb_helper_memory *memory;
        struct stat st;

        if (fstat(PB_HELPER_MEMORY_FD, &st) < 0 || (size_t) st.st_size < sizeof *memory)
                return -EAGAIN;
        memory = mmap(NULL, (size_t) st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, PB_HELPER_MEMORY_FD, 0);
        if (memory == MAP_FAILED)
                return -errno;
        if (!order_helper_load(&memory->ready) || memory->magic != PB_HELPER_MAGIC) {
                (void) munmap(memory, (size_t) st.st_size);
                return -EAGAIN;
        }
        worker->memory = memory;
        worker->size = memory->size;
        worker->depth = memory->depth;
        worker->buffers = (uint8_t *) memory + memory->buffers_offset;
        worker->zero_map = (uint32_t *) (void *) ((uint8_t *) memory + memory->zero_map_offset);
        (void) snprintf(worker->identity, sizeof worker->identity, "%s", memory->identity);
        return 0;
}

static void hear(struct worker *worker) {
        struct packet_info info = PACKET_INFO_INIT;
        struct pb_helper_packet packet;
        ssize_t n;

        while ((n = packet_receive(worker->socket, &packet, sizeof packet, &info, MSG_DONTWAIT)) > 0) {
                packet_info_done(&info);
                if (n == sizeof packet && packet.word == PB_HELPER_INSTALLED && worker->memory &&
                    range_fits(packet.offset, packet.length, worker->size))
                        release_add(worker, packet.offset, packet.length);
                else if (!worker->memory && worker->opened && worker_map(worker) < 0)
                        worker->end = true;
        }
        if (n != -EAGAIN)
                worker->end = true;
}

static void set_state(struct worker *worker) {
        enum pb_helper_state state = worker->changed ? PB_HELPER_CHANGED : PB_HELPER_DISCONNECTED;

        for (unsigned i = 0; i < worker->n_connections; i++)
                if (connection_is_ready(&worker->connections[i]))
                        state = PB_HELPER_CONNECTED;
        if (order_helper_load(&worker->memory->state) == state)
                return;
        order_helper_store(&worker->memory->state, state);
        worker->wake_needed = true; /* a source that is back heals pages */
}

/* Everything that can be done without waiting. */
static void work(struct worker *worker) {
        reads_take(worker);
        reads_start(worker);
        allocation_step(worker);
        release_step(worker);
        set_state(worker);
        finish_step(worker);
        if (worker->wake_needed) {
                worker->wake_needed = false;
                (void) !write(worker->wake, &(uint64_t) { 1 }, sizeof(uint64_t));
        }
}

static int timeout_ms(struct worker *worker) {
        uint64_t now_us = clock_now_us(), next_us = USEC_INFINITY;

        for (unsigned i = 0; i < worker->n_connections; i++)
                if (!connection_is_ready(&worker->connections[i]))
                        next_us = min_u64(next_us, worker->connections[i].at_us);
        if (worker->memory)
                reads_expire(worker, now_us, &next_us);
        if (worker->finishing)
                next_us = min_u64(next_us, worker->finish_until_us);
        if (next_us == USEC_INFINITY)
                return -1;
        return next_us <= now_us ? 0 : (int) min_u64((next_us - now_us) / USEC_PER_MSEC + 1, 60000);
}

static void wait_and_step(struct worker *worker) {
        struct pollfd p[2 + CONNECTIONS_MAX] = { { .fd = worker->socket, .events = POLLIN },
                                                 { .fd = worker->connector_wake, .events = POLLIN } };
        unsigned n = worker->n_connections;
        uint64_t now_us;

        for (unsigned i = 0; i < n; i++) {
                struct connection *connection = &worker->connections[i];
                struct nbd_handle *nbd = connection->state == CONNECTION_RESOLVING ? NULL : connection->nbd;
                unsigned direction = nbd ? nbd_aio_get_direction(nbd) : 0;

                p[2 + i].fd = nbd ? nbd_aio_get_fd(nbd) : -1;
                p[2 + i].events = (short) ((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
        }
        if (poll(p, 2 + n, timeout_ms(worker)) < 0)
                return;
        if (p[0].revents)
                hear(worker);
        if (p[1].revents)
                connector_hear(worker);
        now_us = clock_now_us();
        for (unsigned i = 0; i < n; i++)
                connection_step(&worker->connections[i], p[2 + i].revents, now_us);
}

/* The resolver loads libraries, which the filter forbids: let it load them now. */
static void load_resolver(const char *uri) {
        const char *begin = strstr(uri, "://"), *at;
        struct addrinfo *list = NULL;
        char host[256] = "";
        size_t n;

        if (!begin || strstr(uri, "+unix:") == uri + 3 || strstr(uri, "+unix:") == uri + 4)
                return;
        begin += 3;
        n = strcspn(begin, "/?#");
        at = memchr(begin, '@', n);
        if (at) {
                n -= (size_t) (at + 1 - begin);
                begin = at + 1;
        }
        n = min_u64(strcspn(begin, ":/?#"), n);
        (void) snprintf(host, sizeof host, "%.*s", (int) n, begin);
        if (host[0] && getaddrinfo(host, NULL, NULL, &list) == 0)
                freeaddrinfo(list);
}

static int worker_begin(struct worker *worker) {
        int r;

        load_resolver(worker->options->uri);
        r = connector_start(worker);
        if (r < 0) {
                log_error("cannot start a thread: %s", strerror(-r));
                return r;
        }
        if (worker->options->seccomp)
                r = seccomp_apply(&seccomp_profile_nbd);
        if (r < 0) {
                log_error("cannot load the system-call filter: %s", strerror(-r));
                return r;
        }
        for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
                worker->connections[i] = (struct connection) { .worker = worker, .index = i };
        worker->n_connections = 1;
        /* After one that has crashed: its reads are ours. */
        if (worker_map(worker) == 0) {
                worker->opened = true;
                reads_inherit(worker);
        }
        return 0;
}

int worker_run(const struct nbd_options *options) {
        struct worker *worker = calloc(1, sizeof *worker);
        struct pb_helper_opened failed = { .magic = PB_HELPER_MAGIC, .error = -EIO };

        if (!worker)
                return EXIT_FAILURE;
        worker->options = options;
        worker->socket = PB_HELPER_SOCKET_FD;
        worker->wake = PB_HELPER_WAKE_FD;
        (void) snprintf(worker->error, sizeof worker->error, "cannot start");
        if (worker_begin(worker) == 0)
                connection_start(&worker->connections[0]);
        while (!worker->end && (worker->opened || worker->connections[0].state != CONNECTION_DOWN)) {
                wait_and_step(worker);
                if (worker->memory)
                        work(worker);
        }
        if (worker->opened)
                return EXIT_SUCCESS;
        (void) snprintf(failed.text, sizeof failed.text, "%s", worker->error);
        (void) say(worker, &failed);
        return EXIT_FAILURE;
}
