/* SPDX-License-Identifier: MIT */
#include "tests/integration/basic/support.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/presence.h"

pb_client *child_connect(const struct test_broker *broker, uint32_t role) {
        struct pb_options options = {
                .size = sizeof options,
                .role = role,
                .flags = PB_OPT_COUNT_LOST_WAKES,
                .slice_us = TEST_SLICE_US(broker),
        };
        pb_client *client = NULL;
        int r = pb_connect(&client, broker->address, &options);

        if (r < 0)
                fprintf(stderr, "child: pb_connect: %s\n", strerror(-r));
        return client;
}

bool child_disconnect(pb_client *client) {
        struct pb_counters counters = { .size = sizeof counters };
        bool good = pb_get_counters(client, &counters) == 0 && counters.lost_wakes == 0;

        if (!good)
                fprintf(stderr, "child: %llu wake-ups were lost\n", (unsigned long long) counters.lost_wakes);
        (void) pb_disconnect(client);
        return good;
}

static bool page_is_right(pb_client *client, const struct test_image *const images[], uint64_t gpa) {
        struct pb_region region;
        uint64_t page;

        for (unsigned i = 0; pb_get_region(client, i, &region) == 0; i++) {
                if (gpa - region.gpa >= region.size)
                        continue;
                page = (region.offset + gpa - region.gpa) / TEST_PAGE;
                if (test_image_expect(images[region.memory], page, (char *) region.addr + (gpa - region.gpa)))
                        return true;
                fprintf(stderr, "page %llu of memory %u (gpa 0x%llx) is wrong\n", (unsigned long long) page,
                        region.memory, (unsigned long long) gpa);
                return false;
        }
        fprintf(stderr, "no region at gpa 0x%llx\n", (unsigned long long) gpa);
        return false;
}

bool content_is_right(pb_client *client, const struct test_image *const images[], uint64_t gpa, uint64_t length) {
        for (uint64_t page = align_down(gpa, TEST_PAGE); page < gpa + length; page += TEST_PAGE)
                if (!page_is_right(client, images, page))
                        return false;
        return true;
}

bool ensure_is_right(pb_client *client, const struct test_image *const images[], uint64_t gpa, uint64_t length) {
        int r = pb_ensure(client, gpa, length, PB_READ);

        if (r < 0) {
                fprintf(stderr, "pb_ensure(0x%llx, %llu): %s\n", (unsigned long long) gpa, (unsigned long long) length,
                        pb_explain(client));
                return false;
        }
        return content_is_right(client, images, gpa, length);
}

bool is_zero(const void *addr, size_t length) {
        const unsigned char *bytes = addr;

        return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

struct steps steps_new(void) {
        int fds[2];

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        return (struct steps) { fds[0], fds[1] };
}

void steps_done(struct steps *steps) {
        steps->parent = fd_close(steps->parent);
        steps->child = fd_close(steps->child);
}

bool step_tell(int fd) {
        return send(fd, "", 1, MSG_NOSIGNAL) == 1;
}

bool step_await(int fd) {
        char byte;

        return poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) == 1 &&
               recv(fd, &byte, 1, 0) == 1;
}

struct pb_stats get_stats(pb_client *client) {
        struct pb_stats stats = { .size = sizeof stats };
        int r = pb_get_stats(client, &stats);

        cr_assert(r == 0, "pb_get_stats: %s", strerror(-r));
        return stats;
}

const struct pb_map_header *find_map(const char *memory) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/maps", "re");
        char line[512], name[64];

        (void) snprintf(name, sizeof name, ":%s:map", memory);
        while (f && fgets(line, sizeof line, f)) {
                unsigned long begin;

                if (strstr(line, name) && sscanf(line, "%lx-", &begin) == 1)
                        return (const struct pb_map_header *) begin;
        }
        cr_assert_fail("no mapping of the presence map of %s", memory);
        return NULL;
}

struct pb_region get_region(pb_client *client, unsigned index) {
        struct pb_region region;

        cr_assert(pb_get_region(client, index, &region) == 0);
        return region;
}

void run_threads(unsigned n, void *(*fn)(void *), void *args, size_t arg_size) {
        pthread_t threads[64];
        unsigned n_failed = 0;

        cr_assert(n <= ELEMENTS(threads));
        for (unsigned i = 0; i < n; i++)
                cr_assert(pthread_create(&threads[i], NULL, fn, (char *) args + i * arg_size) == 0);
        for (unsigned i = 0; i < n; i++) {
                void *result;

                cr_assert(pthread_join(threads[i], &result) == 0);
                n_failed += result != NULL;
        }
        cr_assert(n_failed == 0, "%u threads failed, see above", n_failed);
}

static void *ensure_thread(void *arg) {
        struct ensure_call *call = arg;

        call->result = pb_ensure(call->client, call->gpa, call->length, call->intent);
        if (call->result < 0)
                (void) snprintf(call->reason, sizeof call->reason, "%s", pb_explain(call->client));
        return NULL;
}

void ensure_start(struct ensure_call *ret, pb_client *client, uint64_t gpa, size_t length, unsigned intent) {
        *ret = (struct ensure_call) { .client = client, .gpa = gpa, .length = length, .intent = intent };
        cr_assert(pthread_create(&ret->thread, NULL, ensure_thread, ret) == 0);
}

int ensure_wait(struct ensure_call *call) {
        cr_assert(pthread_join(call->thread, NULL) == 0);
        return call->result;
}
