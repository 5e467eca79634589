/* SPDX-License-Identifier: MIT */
/* pb_attach_vmm(): what is handed over, in which pieces. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"

static struct fake *fake;
static pb_client *client;

/* Peer ids are 1, 2, 3, ... */
static void give_ids(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        static unsigned id;

        if (call->header.type == PB_MSG_ATTACH_PEER)
                answer->result.value = ++id;
}

static void start(struct fake_options options) {
        require_uffd();
        options.uffd_device = true;
        if (!options.on_call)
                options.on_call = give_ids;
        fake = fake_new(&options);
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_VMM);
}

/* The library keeps its descriptors for the life of the process: not a leak. */
static void stop(unsigned n_kept) {
        unsigned n = 0;

        client = pb_disconnect(client);
        fake_free(fake);
        for (int fd = 3; fd < 200; fd++)
                if (fd_get_kind(fd) == FD_KIND_USERFAULTFD) {
                        (void) close(fd);
                        n++;
                }
        cr_assert_eq(n, n_kept, "%u kept", n);
}

static int attach_in_shards(unsigned shards) {
        const struct pb_vmm_options options = { .size = sizeof options, .shards = shards };

        return pb_attach_vmm(client, &options);
}

/* Calls after HELLO: an ATTACH_PEER and a MAP_PEER for each piece. */
static void assert_piece(unsigned index, uint32_t memory, uint64_t offset, uint64_t length) {
        const struct fake_call *attach = &fake->calls[1 + 2 * index], *map = &fake->calls[2 + 2 * index];

        cr_assert_eq(attach->header.type, PB_MSG_ATTACH_PEER);
        cr_assert_eq(fd_get_kind(attach->fd), FD_KIND_USERFAULTFD);
        cr_assert_eq(map->header.type, PB_MSG_MAP_PEER);
        cr_assert_eq(map->map_peer.peer, index + 1);
        cr_assert_eq(map->map_peer.memory, memory);
        cr_assert_eq(map->map_peer.offset, offset, "piece %u: offset %#llx", index,
                     (unsigned long long) map->map_peer.offset);
        cr_assert_eq(map->map_peer.length, length, "piece %u: length %#llx", index,
                     (unsigned long long) map->map_peer.length);
        cr_assert_eq(map->map_peer.address, (uintptr_t) client->memories[memory].addr + offset);
}

TEST(vmm, hands_over_one_descriptor_a_region) {
        start((struct fake_options) { .n_pages = { 64, 32 } });
        cr_assert_eq(pb_attach_vmm(client, NULL), 0);
        cr_assert_eq(fake->n_calls, 5);
        assert_piece(0, 0, 0, 64 * PAGE);
        assert_piece(1, 1, 0, 32 * PAGE);
        cr_assert_eq(strncmp(fake->calls[1].attach_peer.name, "vmm:", 4), 0);
        stop(2);
}

TEST(vmm, shards_a_region) {
        start((struct fake_options) { .n_pages = { 100 } });
        cr_assert_eq(attach_in_shards(3), 0);
        assert_piece(0, 0, 0, 34 * PAGE);
        assert_piece(1, 0, 34 * PAGE, 34 * PAGE);
        assert_piece(2, 0, 68 * PAGE, 32 * PAGE);
        stop(3);
}

TEST(vmm, makes_no_more_shards_than_there_are_pages) {
        start((struct fake_options) { .n_pages = { 2 } });
        cr_assert_eq(attach_in_shards(64), 0);
        cr_assert_eq(fake->n_calls, 5);
        assert_piece(1, 0, PAGE, PAGE);
        stop(2);
}

/* Regions that show the same piece of memory twice, or parts of one huge page: an address goes to one descriptor. */
TEST(vmm, registers_every_backing_page_once) {
        require_hugepages(4, HUGE_2M);
        start((struct fake_options) {
                .n_pages = { 2048 },
                .backing_size = HUGE_2M,
                .regions = {
                        { .memory = 0, .gpa = 0, .size = 160 * PAGE, .offset = 0 },
                        { .memory = 0, .gpa = 256 * PAGE, .size = 300 * PAGE, .offset = 256 * PAGE },
                        { .memory = 0, .gpa = 1ull << 32, .size = 1024 * PAGE, .offset = 1024 * PAGE },
                },
                .n_regions = 3,
        });
        cr_assert_eq(pb_attach_vmm(client, NULL), 0);
        cr_assert_eq(fake->n_calls, 5);
        assert_piece(0, 0, 0, 2 * HUGE_2M);
        assert_piece(1, 0, 2 * HUGE_2M, 2 * HUGE_2M);
        stop(2);
}

TEST(vmm, shards_are_whole_backing_pages) {
        require_hugepages(4, HUGE_2M);
        start((struct fake_options) { .n_pages = { 2048 }, .backing_size = HUGE_2M });
        cr_assert_eq(attach_in_shards(3), 0);
        assert_piece(0, 0, 0, 2 * HUGE_2M);
        assert_piece(1, 0, 2 * HUGE_2M, 2 * HUGE_2M);
        cr_assert_eq(fake->n_calls, 5);
        stop(2);
}

/* The broker must find them as ATTACH_PEER promises: before UFFDIO_API, non-blocking, with faults of the kernel. */
TEST(vmm, descriptors_are_what_the_protocol_promises) {
        struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM };
        char path[64], line[128];
        unsigned flags = 0;
        FILE *info;
        int fd;

        start((struct fake_options) { .n_pages = { 2 } });
        cr_assert_eq(pb_attach_vmm(client, NULL), 0);
        fd = fake->calls[1].fd;
        (void) snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        info = fopen(path, "re");
        cr_assert_not_null(info);
        while (fgets(line, sizeof line, info))
                (void) sscanf(line, "flags: %o", &flags);
        (void) fclose(info);
        cr_assert_eq(flags & 04000, 04000, "O_NONBLOCK");
        cr_assert_eq(ioctl(fd, UFFDIO_API, &api), 0);
        stop(1);
}

TEST(vmm, happens_once) {
        start((struct fake_options) { .n_pages = { 2 } });
        cr_assert_eq(pb_attach_vmm(client, NULL), 0);
        cr_assert_eq(pb_attach_vmm(client, NULL), -EBUSY);
        cr_assert_eq(fake->n_calls, 3);
        stop(1);
}

static void refuse_attach(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->result.error = call->header.type == PB_MSG_ATTACH_PEER && f->n_calls == 2 ? -EMFILE : 0;
        answer->result.value = f->n_calls;
}

TEST(vmm, may_be_tried_again_when_nothing_was_handed_over) {
        start((struct fake_options) { .n_pages = { 2 }, .on_call = refuse_attach });
        cr_assert_eq(pb_attach_vmm(client, NULL), -EMFILE);
        cr_assert_eq(pb_attach_vmm(client, NULL), 0);
        stop(1);
}

/* The second MAP_PEER fails; ids as usual. */
static void refuse_second_map(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (call->header.type == PB_MSG_ATTACH_PEER)
                answer->result.value = 10 + f->n_calls;
        if (call->header.type == PB_MSG_MAP_PEER && f->n_calls == 5)
                answer->result.error = -ENOMEM;
}

TEST(vmm, takes_back_what_was_handed_over_when_the_rest_fails) {
        start((struct fake_options) { .n_pages = { 2, 2 }, .on_call = refuse_second_map });
        cr_assert_eq(pb_attach_vmm(client, NULL), -ENOMEM);
        cr_assert_eq(fake->n_calls, 7);
        cr_assert_eq(fake->calls[5].header.type, PB_MSG_DETACH_PEER);
        cr_assert_eq(fake->calls[5].detach_peer.peer, 10 + 4);
        cr_assert_eq(fake->calls[6].header.type, PB_MSG_DETACH_PEER);
        cr_assert_eq(fake->calls[6].detach_peer.peer, 10 + 2);
        cr_assert_eq(pb_attach_vmm(client, NULL), 0, "and may be tried again");
        stop(2);
}

static void refuse_map_and_detach(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (call->header.type != PB_MSG_ATTACH_PEER)
                answer->result.error = -EINVAL;
}

/* Closed, it would let threads go onto zeros. */
TEST(vmm, keeps_what_the_broker_does_not_give_back) {
        start((struct fake_options) { .n_pages = { 2, 2 }, .on_call = refuse_map_and_detach });
        cr_assert_eq(pb_attach_vmm(client, NULL), -EINVAL);
        cr_assert_eq(pb_attach_vmm(client, NULL), -EBUSY);
        stop(1);
}

TEST(vmm, refuses_bad_options_and_roles) {
        struct pb_vmm_options options = { .size = sizeof options, .shards = 65 };

        start((struct fake_options) { .n_pages = { 2 } });
        cr_assert_eq(pb_attach_vmm(client, &options), -EINVAL);
        options = (struct pb_vmm_options) { .size = sizeof options, .flags = 1 };
        cr_assert_eq(pb_attach_vmm(client, &options), -EINVAL);
        options = (struct pb_vmm_options) { .size = 4 };
        cr_assert_eq(pb_attach_vmm(client, &options), -EINVAL);
        cr_assert_eq(fake->n_calls, 1);
        stop(0);
        fake = fake_new(&(struct fake_options) { .n_pages = { 2 } });
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(pb_attach_vmm(client, NULL), -EACCES);
        stop(0);
}
