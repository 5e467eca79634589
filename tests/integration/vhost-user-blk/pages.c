/* SPDX-License-Identifier: MIT */
#include "tests/integration/vhost-user-blk/pages.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "common/packet.h"
#include "tests/lib/process.h"

#define PATIENCE_MS ((int) (TEST_PATIENCE_US / USEC_PER_MSEC))

void pages_open(struct pages *pages, const char *path, const struct pages_options *options) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };

        *pages = (struct pages) { .options = *options, .socket = -1 };
        if (options->n_regions == 0) {
                pages->options.n_regions = 1;
                pages->options.regions[0] = (struct stand_in_region) { .size = options->size };
        }
        (void) snprintf(pages->path, sizeof pages->path, "%s", path);
        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
        pages->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        cr_assert(bind(pages->listener, (struct sockaddr *) &addr, sizeof addr) == 0 &&
                  listen(pages->listener, 1) == 0);
        pages->memory = memfd_new("guest", options->size, PB_PAGE_SIZE);
        cr_assert(pages->memory >= 0);
        pages->memfd = mmap(NULL, options->size, PROT_READ | PROT_WRITE, MAP_SHARED, pages->memory, 0);
        pages->source = mmap(NULL, options->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pages->present = calloc(options->size / PB_PAGE_SIZE, sizeof *pages->present);
        cr_assert(pages->memfd != MAP_FAILED && pages->source != MAP_FAILED && pages->present);
        if (options->present)
                memset(pages->present, 1, options->size / PB_PAGE_SIZE);
}

static void pages_order(struct pages *pages, const struct stand_in_order *order) {
        cr_assert(send(pages->socket, order, sizeof *order, MSG_NOSIGNAL) == sizeof *order, "the device is gone");
}

void pages_accept(struct pages *pages) {
        struct stand_in_hello hello = {
                .size = pages->options.size,
                .n_regions = pages->options.n_regions,
                .limit = pages->options.limit ?: UINT32_MAX,
        };

        memcpy(hello.regions, pages->options.regions, sizeof hello.regions);
        cr_assert(poll(&(struct pollfd) { .fd = pages->listener, .events = POLLIN }, 1, PATIENCE_MS) == 1,
                  "the device does not connect to the page broker");
        pages->socket = accept4(pages->listener, NULL, NULL, SOCK_CLOEXEC);
        cr_assert(pages->socket >= 0);
        cr_assert(packet_send(pages->socket, &hello, sizeof hello, &pages->memory, 1, 0) == 0);
        if (pages->options.present)
                pages_order(pages, &(struct stand_in_order) { .type = STAND_IN_GRANT, .length = pages->options.size });
        pages_order(pages, &(struct stand_in_order) { .type = STAND_IN_BEGIN });
}

void pages_hang_up(struct pages *pages) {
        pages->socket = fd_close(pages->socket);
}

void pages_close(struct pages *pages) {
        pages_hang_up(pages);
        pages->listener = fd_close(pages->listener);
        pages->memory = fd_close(pages->memory);
        (void) munmap(pages->memfd, pages->options.size);
        (void) munmap(pages->source, pages->options.size);
        free(pages->present);
        (void) unlink(pages->path);
}

static uint64_t offset_of(const struct pages *pages, uint64_t gpa) {
        for (unsigned i = 0; i < pages->options.n_regions; i++) {
                const struct stand_in_region *region = &pages->options.regions[i];

                if (gpa - region->gpa < region->size)
                        return region->offset + (gpa - region->gpa);
        }
        cr_assert_fail("no memory at 0x%llx", (unsigned long long) gpa);
        return 0;
}

bool pages_is_present(const struct pages *pages, uint64_t gpa) {
        return pages->present[offset_of(pages, gpa) / PB_PAGE_SIZE];
}

char *pages_at(struct pages *pages, uint64_t gpa) {
        return (pages_is_present(pages, gpa) ? pages->memfd : pages->source) + offset_of(pages, gpa);
}

bool pages_pending(struct pages *pages) {
        return pages->socket >= 0 && poll(&(struct pollfd) { .fd = pages->socket, .events = POLLIN }, 1, 0) == 1;
}

struct stand_in_submit pages_expect(struct pages *pages) {
        struct stand_in_submit submit;

        cr_assert(poll(&(struct pollfd) { .fd = pages->socket, .events = POLLIN }, 1, PATIENCE_MS) == 1,
                  "the device asks for no pages");
        cr_assert(recv(pages->socket, &submit, sizeof submit, 0) == sizeof submit, "the device is gone");
        pages->n_submits++;
        return submit;
}

void pages_bring(struct pages *pages, const struct pb_range *range) {
        uint64_t end = range->gpa + range->len;

        for (uint64_t gpa = align_down(range->gpa, PB_PAGE_SIZE); gpa < end; gpa += PB_PAGE_SIZE) {
                uint64_t offset = offset_of(pages, gpa);
                bool whole = gpa >= range->gpa && end - gpa >= PB_PAGE_SIZE;

                if (pages->present[offset / PB_PAGE_SIZE])
                        continue;
                if (range->intent == PB_OVERWRITE && whole)
                        memset(pages->memfd + offset, 0, PB_PAGE_SIZE);
                else
                        memcpy(pages->memfd + offset, pages->source + offset, PB_PAGE_SIZE);
                pages->present[offset / PB_PAGE_SIZE] = true;
                pages_order(pages, &(struct stand_in_order) {
                                           .type = STAND_IN_GRANT, .offset = offset, .length = PB_PAGE_SIZE });
        }
}

void pages_complete(struct pages *pages, const struct stand_in_submit *submit, int result) {
        for (unsigned i = 0; result == 0 && i < submit->n; i++)
                pages_bring(pages, &submit->ranges[i]);
        pages_order(pages, &(struct stand_in_order) {
                                   .type = STAND_IN_COMPLETE,
                                   .cookie = submit->cookie,
                                   .result = result,
                           });
}
