/* SPDX-License-Identifier: MIT */
/* pb_connect() and what it sets up, with an honest broker. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"

/* One memory seen at two places, as QEMU's q35 does, and a second memory right behind the first piece. */
static const struct fake_options two_memories = {
        .n_pages = { 64, 32 },
        .regions = {
                { .memory = 0, .gpa = 0, .size = 48 * 4096 },
                { .memory = 1, .gpa = 48 * 4096, .size = 32 * 4096 },
                { .memory = 0, .gpa = 1ull << 32, .size = 16 * 4096, .offset = 48 * 4096 },
        },
        .n_regions = 3,
};

TEST(connect, describes_the_regions) {
        struct fake *fake = fake_new(&two_memories);
        struct pb_region region;
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_region(client, 2, &region), 0);
        cr_assert_eq(region.index, 2);
        cr_assert_eq(region.memory, 0);
        cr_assert_eq(region.gpa, 1ull << 32);
        cr_assert_eq(region.size, 16 * PAGE);
        cr_assert_eq(region.offset, 48 * PAGE);
        cr_assert_eq(region.page_size, 4096);
        cr_assert_eq(region.flags, 0);
        cr_assert_eq(pb_translate(client, region.gpa, 16 * PAGE), region.addr);
        cr_assert_eq(fd_get_kind(region.fd), FD_KIND_MEMFD);
        cr_assert_eq(pb_disconnect(client), NULL);
        fake_free(fake);
}

TEST(connect, says_enoent_past_the_last_region_and_leaves_the_output) {
        struct fake *fake = fake_new(&two_memories);
        struct pb_region region = { .index = 99 };
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_region(client, 3, &region), -ENOENT);
        cr_assert_eq(region.index, 99);
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, translates_inside_one_region_only) {
        struct fake *fake = fake_new(&two_memories);
        struct pb_region region;
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_region(client, 0, &region), 0);
        cr_assert_eq(pb_translate(client, 47 * PAGE, PAGE), (char *) region.addr + 47 * PAGE);
        cr_assert_null(pb_translate(client, 47 * PAGE, PAGE + 1));
        cr_assert_null(pb_translate(client, 80 * PAGE, 1));
        cr_assert_null(pb_translate(client, UINT64_MAX, 1));
        cr_assert_null(pb_translate(client, 0, SIZE_MAX));
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, maps_the_brokers_memory) {
        struct fake *fake = fake_new(&two_memories);
        struct pb_region first, second;
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        fake_publish(fake, 0, 50, 1);
        cr_assert_eq(pb_get_region(client, 0, &first), 0);
        cr_assert_eq(pb_get_region(client, 2, &second), 0);
        /* One mapping a memory: both regions of it lie in the same. */
        cr_assert_eq((char *) second.addr - (char *) first.addr, 48 * PAGE);
        cr_assert(fake_page_is_right((char *) second.addr + 2 * PAGE, 0, 50));
        (void) snprintf((char *) second.addr + 2 * PAGE, PAGE, "written by the client");
        cr_assert_str_eq(fake->memories[0].addr + 50 * PAGE, "written by the client");
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, maps_without_filling_even_under_mlockall) {
        struct fake *fake = fake_new(&(struct fake_options) { .n_pages = { 64 } });
        pb_client *client;
        struct stat st;

        require_root();
        cr_assert_eq(mlockall(MCL_FUTURE), 0);
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(fstat(fake->memories[0].fd, &st), 0);
        cr_assert_eq(st.st_blocks, 0, "%lld blocks of guest memory were filled", (long long) st.st_blocks);
        (void) pb_disconnect(client);
        fake_free(fake);
        cr_assert_eq(munlockall(), 0);
}

TEST(connect, says_who_it_is) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client;

        fake_start(fake);
        client = connect_with(fake, OPTIONS(.role = PB_ROLE_VMM, .name = "me"));
        cr_assert_str_eq(fake->calls[0].hello.name, "me");
        cr_assert_eq(fake->calls[0].hello.role, PB_ROLE_VMM);
        cr_assert_eq(fake->calls[0].hello.version_min, PB_VERSION_MIN);
        cr_assert_eq(fake->calls[0].hello.version_max, PB_VERSION_MAX);
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, sends_its_credentials_on_an_inherited_socket) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(fake->calls[0].sender, getpid());
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, takes_the_programs_name_by_default) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client;

        program_invocation_short_name = (char *) "a-program-with-a-name-that-is-far-too-long";
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_str_eq(fake->calls[0].hello.name, "a-program-with-a-name-that-is-f");
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, refuses_bad_options) {
        struct fake *fake = fake_new(&two_memories);
        struct {
                struct pb_options options;
                char more[8];
        } future = { { .size = sizeof future, .role = PB_ROLE_DEVICE }, "" };

        cr_assert_eq(connect_error(fake, NULL), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = 0)), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = 5)), -EINVAL);
        cr_assert_eq(connect_error(fake, &(struct pb_options) { .size = 8, .role = PB_ROLE_DEVICE }), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE, .flags = 2)), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE, .timeout_us = -1)), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE, .slice_us = 1000001)), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE, .spin_us = -2)), -EINVAL);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE, .name = "a name of thirty-two bytes is no")),
                     -EINVAL);
        future.more[0] = 1;
        cr_assert_eq(connect_error(fake, &future.options), -EINVAL);
        cr_assert_eq(fake->n_calls, 0);
        fake_free(fake);
}

TEST(connect, accepts_larger_options_that_ask_for_nothing_new) {
        struct fake *fake = fake_new(&two_memories);
        struct {
                struct pb_options options;
                char more[8];
        } future = { { .size = sizeof future, .role = PB_ROLE_DEVICE }, "" };

        fake_start(fake);
        (void) pb_disconnect(connect_with(fake, &future.options));
        fake_free(fake);
}

static int connect_address(const char *address) {
        pb_client *client = NULL;
        int r = pb_connect(&client, address, OPTIONS(.role = PB_ROLE_DEVICE));

        cr_assert_null(client);
        return r;
}

TEST(connect, refuses_addresses_where_no_broker_is) {
        char path[200], address[32];
        int pair[2];

        memset(path, 'x', sizeof path - 1);
        path[sizeof path - 1] = 0;
        cr_assert_eq(connect_address(NULL), -EINVAL);
        cr_assert_eq(connect_address(""), -EINVAL);
        cr_assert_eq(connect_address("fd:"), -EINVAL);
        cr_assert_eq(connect_address("fd:-1"), -EINVAL);
        cr_assert_eq(connect_address("fd:1x"), -EINVAL);
        cr_assert_eq(connect_address("fd:99999999999999999999"), -EINVAL);
        cr_assert_eq(connect_address("fd:4000"), -EBADF);
        cr_assert_eq(connect_address(path), -ENAMETOOLONG);
        cr_assert_eq(connect_address("/nonexistent/socket"), -ENOENT);
        cr_assert_eq(connect_address("fd:0"), -EPROTO, "standard input is not a socket");
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        (void) snprintf(address, sizeof address, "fd:%d", pair[0]);
        cr_assert_eq(connect_address(address), -EPROTO, "a stream is not a broker");
        (void) close(pair[0]);
        (void) close(pair[1]);
}

TEST(connect, connects_to_a_path) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client = NULL;

        fake_listen(fake);
        fake_start(fake);
        cr_assert_eq(pb_connect(&client, fake->address, OPTIONS(.role = PB_ROLE_DEVICE)), 0);
        cr_assert_not_null(pb_translate(client, 0, PAGE));
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, says_econnrefused_when_nobody_listens_any_more) {
        struct fake *fake = fake_new(&two_memories);

        fake_listen(fake);
        fake->listener = fd_close(fake->listener);
        cr_assert_eq(connect_error(fake, OPTIONS(.role = PB_ROLE_DEVICE)), -ECONNREFUSED);
        fake_free(fake);
}

TEST(connect, leaves_an_inherited_socket_to_its_owner) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client;
        ssize_t n;
        char byte;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        (void) pb_disconnect(client);
        cr_assert_geq(fcntl(fake->client_socket, F_GETFD), 0, "still open");
        /* And yet the session is over, for the broker too; the answer to its goodbye may be there. */
        while ((n = recv(fake->client_socket, &byte, 1, MSG_DONTWAIT)) > 0)
                ;
        cr_assert_eq(n, 0);
        (void) pthread_join(fake->control, NULL);
        fake->has_control = false;
        fake_free(fake);
}

TEST(connect, gives_an_observer_no_memory) {
        struct fake *fake = fake_new(&two_memories);
        struct pb_completion completion;
        struct pb_region region;
        pb_client *client;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_OBSERVER);
        cr_assert_eq(pb_get_region(client, 0, &region), 0);
        cr_assert_eq(region.fd, -1);
        cr_assert_null(region.addr);
        cr_assert_eq(region.size, 48 * PAGE);
        cr_assert_null(pb_translate(client, 0, PAGE));
        cr_assert_not(pb_is_present(client, 0, PAGE));
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -EACCES);
        cr_assert_eq(pb_submit(client, &(struct pb_range) { 0, PAGE, PB_READ, 0 }, 1, 0), -EACCES);
        cr_assert_eq(pb_prefetch(client, 0, PAGE), -EACCES);
        cr_assert_eq(pb_discard(client, 0, PAGE), -EACCES);
        cr_assert_eq(pb_get_fd(client), -EACCES);
        cr_assert_eq(pb_reap(client, &completion, 1), -EACCES);
        cr_assert_eq(pb_attach_vmm(client, NULL), -EACCES);
        cr_assert_eq(pb_set_fill(client, true), -EACCES);
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, maps_read_only_for_the_read_only_role) {
        struct fake_options options = two_memories;
        struct pb_region region;
        struct fake *fake;
        pb_client *client;
        int null;

        options.readonly = true;
        fake = fake_new(&options);
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE_RO);
        fake_publish(fake, 0, 0, 1);
        cr_assert_eq(pb_get_region(client, 0, &region), 0);
        cr_assert_eq(region.flags, PB_REGION_READONLY);
        cr_assert(fake_page_is_right(region.addr, 0, 0));
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), 0);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_WRITE), -EACCES);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_OVERWRITE), -EACCES);
        /* The kernel agrees: it cannot write there. */
        null = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        cr_assert_eq(read(null, region.addr, 1), -1);
        cr_assert_eq(errno, EFAULT);
        (void) close(null);
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, shows_shared_mappings_to_no_child) {
        struct fake *fake = fake_new(&two_memories);
        char line[512], *addr;
        pb_client *client;
        unsigned found = 0;
        FILE *smaps;

        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        addr = pb_translate(client, 0, PAGE);
        smaps = fopen("/proc/self/smaps", "re");
        cr_assert_not_null(smaps);
        while (fgets(line, sizeof line, smaps)) {
                const void *from;

                if (sscanf(line, "%p-", (void **) &from) == 1 &&
                    (from == addr || from == client->memories[1].addr || from == client->ring ||
                     from == client->state || from == client->memories[0].map))
                        found |= 1u << 31;
                if (strncmp(line, "VmFlags:", 8) == 0 && found & 1u << 31) {
                        cr_assert_not_null(strstr(line, " dc"), "not MADV_DONTFORK: %s", line);
                        found = (found & ~(1u << 31)) + 1;
                }
        }
        (void) fclose(smaps);
        cr_assert_eq(found, 5);
        (void) pb_disconnect(client);
        fake_free(fake);
}

TEST(connect, disconnects_null) {
        cr_assert_null(pb_disconnect(NULL));
}

TEST(connect, knows_a_complete_memory_from_the_start) {
        struct fake *fake = fake_new(&two_memories);
        pb_client *client;

        fake_publish(fake, 0, 0, 64);
        fake_publish(fake, 1, 0, 32);
        fake->memories[0].map->complete = 1;
        fake_start(fake);
        client = connect_as(fake, PB_ROLE_DEVICE);
        cr_assert_eq(client->prefix.complete, 0);
        fake->memories[1].map->complete = 1;
        client_note_complete(client);
        cr_assert_eq(client->prefix.complete, 1);
        (void) pb_disconnect(client);
        fake_free(fake);
}
