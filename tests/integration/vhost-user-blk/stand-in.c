/* SPDX-License-Identifier: MIT */
#include "tests/integration/vhost-user-blk/stand-in.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "common/packet.h"

struct pb_client {
        int socket;
        int memory;
        char *addr;
        uint8_t *present; /* a byte a page */
        struct stand_in_hello hello;
        unsigned n_outstanding;
};

static void die(const char *what) {
        fprintf(stderr, "stand-in: %s: %s\n", what, strerror(errno));
        abort();
}

static void take_grant(pb_client *client, const struct stand_in_order *order) {
        memset(&client->present[order->offset / PB_PAGE_SIZE], 1, order->length / PB_PAGE_SIZE);
        if (mprotect(client->addr + order->offset, order->length, PROT_READ | PROT_WRITE) < 0)
                die("mprotect");
}

/* Returns 1 and a completion or the begin, 0 if there is nothing, -ECONNRESET at the end. */
static int take_order(pb_client *client, int flags, struct stand_in_order *ret) {
        for (;;) {
                ssize_t n = recv(client->socket, ret, sizeof *ret, flags);

                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return -ECONNRESET;
                if (ret->type != STAND_IN_GRANT)
                        return 1;
                take_grant(client, ret);
        }
}

int pb_connect(pb_client **ret, const char *address, const struct pb_options *options) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        struct packet_info info = PACKET_INFO_INIT;
        struct stand_in_order order;
        pb_client *client = calloc(1, sizeof *client);

        if (!client || options->role != PB_ROLE_DEVICE)
                die("options");
        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", address);
        client->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (client->socket < 0 || connect(client->socket, (struct sockaddr *) &addr, sizeof addr) < 0) {
                int error = -errno;

                (void) fd_close(client->socket);
                free(client);
                return error;
        }
        if (packet_receive(client->socket, &client->hello, sizeof client->hello, &info, 0) != sizeof client->hello ||
            info.n_fds != 1)
                die("hello");
        client->memory = info.fds[0];
        client->addr = mmap(NULL, client->hello.size, PROT_NONE, MAP_SHARED, client->memory, 0);
        client->present = calloc(1, client->hello.size / PB_PAGE_SIZE);
        if (client->addr == MAP_FAILED || !client->present)
                die("mmap");
        if (take_order(client, 0, &order) != 1 || order.type != STAND_IN_BEGIN)
                die("begin");
        *ret = client;
        return 0;
}

pb_client *pb_disconnect(pb_client *client) {
        if (!client)
                return NULL;
        (void) munmap(client->addr, client->hello.size);
        (void) fd_close(client->socket);
        (void) fd_close(client->memory);
        free(client->present);
        free(client);
        return NULL;
}

int pb_get_region(pb_client *client, unsigned index, struct pb_region *ret) {
        const struct stand_in_region *region = &client->hello.regions[index];

        if (index >= client->hello.n_regions)
                return -ENOENT;
        *ret = (struct pb_region) {
                .index = index,
                .gpa = region->gpa,
                .size = region->size,
                .offset = region->offset,
                .page_size = PB_PAGE_SIZE,
                .addr = client->addr + region->offset,
                .fd = client->memory,
        };
        return 0;
}

static const struct stand_in_region *find(const pb_client *client, uint64_t gpa) {
        for (unsigned i = 0; i < client->hello.n_regions; i++)
                if (gpa - client->hello.regions[i].gpa < client->hello.regions[i].size)
                        return &client->hello.regions[i];
        return NULL;
}

void *pb_translate(pb_client *client, uint64_t gpa, size_t len) {
        const struct stand_in_region *region = find(client, gpa);

        if (!region || !range_fits(gpa - region->gpa, len, region->size))
                return NULL;
        return client->addr + region->offset + (gpa - region->gpa);
}

/* 1, 0 or -EFAULT. */
static int is_present(const pb_client *client, const struct pb_range *range) {
        bool present = true;

        if (range->intent < PB_READ || range->intent > PB_OVERWRITE || range->reserved != 0)
                die("intent");
        for (uint64_t gpa = align_down(range->gpa, PB_PAGE_SIZE); gpa < range->gpa + range->len; gpa += PB_PAGE_SIZE) {
                const struct stand_in_region *region = find(client, gpa);

                if (!region)
                        return -EFAULT;
                present &= client->present[(region->offset + (gpa - region->gpa)) / PB_PAGE_SIZE];
        }
        return present;
}

int pb_submit(pb_client *client, const struct pb_range *ranges, unsigned n, uint64_t cookie) {
        struct stand_in_submit submit = { .cookie = cookie, .n = n };
        bool present = true;

        if (n > STAND_IN_RANGES_MAX)
                die("ranges");
        for (unsigned i = 0; i < n; i++) {
                int r = is_present(client, &ranges[i]);

                if (r < 0)
                        return r;
                present &= r;
                submit.ranges[i] = ranges[i];
        }
        if (present)
                return 1;
        if (client->n_outstanding == client->hello.limit)
                return -EAGAIN;
        client->n_outstanding++;
        return send(client->socket, &submit, sizeof submit, MSG_NOSIGNAL) < 0 ? -ECONNRESET : 0;
}

int pb_get_fd(pb_client *client) {
        return client->socket;
}

int pb_reap(pb_client *client, struct pb_completion *ret_completions, unsigned max) {
        struct stand_in_order order;
        unsigned n = 0;

        while (n < max) {
                int r = take_order(client, MSG_DONTWAIT, &order);

                if (r < 0 && n == 0)
                        return r;
                if (r <= 0)
                        break;
                client->n_outstanding--;
                ret_completions[n++] = (struct pb_completion) { .cookie = order.cookie, .result = order.result };
        }
        return (int) n;
}
