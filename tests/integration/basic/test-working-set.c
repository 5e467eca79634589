/* SPDX-License-Identifier: MIT */
/* What was wanted is written down, and brought before it is asked for the next time. */
#include "protocol/working-set.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/gate.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static char path[128], record_option[160], replay_option[160];

static void make(uint64_t n_pages) {
        const char *dir = getenv("TMPDIR") ?: "/tmp";

        test_image_make(&image, &(struct test_image_spec) { .seed = 77, .n_pages = n_pages });
        (void) snprintf(path, sizeof path, "%s/set-%d.pws", dir, (int) getpid());
        (void) snprintf(record_option, sizeof record_option, "--working-set-record=%s", path);
        (void) snprintf(replay_option, sizeof replay_option, "--working-set-replay=%s", path);
}

static void unmake(void) {
        (void) unlink(path);
        test_image_unlink(&image);
}

static void *read_file(uint64_t *ret_size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        void *file;

        cr_assert(fd >= 0 && fstat(fd, &st) == 0);
        file = malloc((size_t) st.st_size);
        cr_assert(file && read(fd, file, (size_t) st.st_size) == st.st_size);
        *ret_size = (uint64_t) st.st_size;
        return file;
}

/* A device that wants these pages, one after the other, neighbours at once: that they are one run must not depend on how soon
 * the second one is wanted. */
static const uint64_t wanted[] = { 900, 3, 4, 500, 64, 63 };

static void record(void) {
        struct test_broker broker;
        pb_client *client;

        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off", record_option);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (size_t i = 0, n; i < ELEMENTS(wanted); i += n) {
                for (n = 1; i + n < ELEMENTS(wanted) && wanted[i + n] == wanted[i] + n;)
                        n++;
                test_ensure_and_check(client, &image, wanted[i] * TEST_PAGE, n * TEST_PAGE);
        }
        /* Again: a page is wanted for the first time once. And what is overwritten was not needed. */
        test_ensure(client, 3 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_ensure(client, 700 * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

TEST(working_set, names_each_wanted_page_once_in_order_with_who_wanted_it) {
        _cleanup_free_ void *file = NULL;
        struct working_set_view view = {};
        uint64_t size, n = 0;
        struct stat st;

        make(1024);
        record();
        file = read_file(&size);
        cr_assert_null(working_set_check(file, size, &view));
        cr_assert_eq(view.header->flags, 0);
        cr_assert_eq(view.header->n_memories, 1);
        cr_assert_str_eq(view.memories[0].name, "ram0");
        cr_assert_eq(view.memories[0].size, 1024 * TEST_PAGE);
        cr_assert(strstr(view.memories[0].source, image.path));
        cr_assert(stat(image.path, &st) == 0 && view.memories[0].inode == st.st_ino);
        cr_assert_eq(view.header->n_clients, 1);
        cr_assert_eq(view.clients[0].class, PB_WANTED_BY_DEVICE);
        cr_assert(view.clients[0].name[0]);
        for (uint64_t i = 0; i < view.header->n_entries; i++)
                for (uint64_t page = 0; page < view.entries[i].n_pages; page++, n++)
                        cr_assert_eq(view.entries[i].first_page + page, wanted[n]);
        cr_assert_eq(n, ELEMENTS(wanted));
        unmake();
}

/* ---- neighbours, from a source that is never in page cache ---- */

#define NEIGHBOURS 7u
#define FIRST_NEIGHBOUR 64u

static int touch_neighbours(void *arg) {
        pb_client *client = child_connect(arg, PB_ROLE_VMM);

        if (!client || pb_attach_vmm(client, NULL) < 0)
                return 1;
        for (uint64_t page = FIRST_NEIGHBOUR; page < FIRST_NEIGHBOUR + NEIGHBOURS; page++)
                if (test_image_compare(&image, page, 1, (const char *) get_region(client, 0).addr + page * TEST_PAGE) !=
                    TEST_IMAGE_NONE)
                        return 1;
        return child_disconnect(client) ? 0 : 1;
}

static int want_neighbours(void *arg) {
        pb_client *client = child_connect(arg, PB_ROLE_DEVICE);

        for (uint64_t page = FIRST_NEIGHBOUR; client && page < FIRST_NEIGHBOUR + NEIGHBOURS; page++)
                if (!ensure_is_right(client, images, page * TEST_PAGE, TEST_PAGE))
                        return 1;
        return client && child_disconnect(client) ? 0 : 1;
}

/* One after the other, each of them is wanted: none has come along with the one before. */
static void record_neighbours(int (*work)(void *arg), uint32_t class) {
        _cleanup_free_ void *file = NULL;
        struct working_set_view view = {};
        struct test_broker broker;
        struct test_gate gate;
        uint64_t size, n = 0;

        require_fuse();
        make(1024);
        test_gate_start(&gate, &image);
        TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""), "--fill=off", "--read-around=4M", record_option);
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, work, &broker)), 0);
        test_broker_stop(&broker);
        file = read_file(&size);
        cr_assert_null(working_set_check(file, size, &view));
        cr_assert_eq(view.clients[0].class, class);
        for (uint64_t i = 0; i < view.header->n_entries; i++)
                for (uint64_t page = 0; page < view.entries[i].n_pages; page++, n++)
                        cr_assert_eq(view.entries[i].first_page + page, FIRST_NEIGHBOUR + n);
        cr_assert_eq(n, NEIGHBOURS);
        test_gate_stop(&gate);
        unmake();
}

TEST(working_set, of_a_client_names_neighbours_one_by_one) {
        record_neighbours(want_neighbours, PB_WANTED_BY_DEVICE);
}

TEST(working_set, of_a_peer_names_neighbours_one_by_one) {
        require_uffd();
        record_neighbours(touch_neighbours, PB_WANTED_BY_FAULT);
}

TEST(working_set, replay_brings_these_pages_and_no_others) {
        struct test_broker broker;
        pb_client *client;

        make(1024);
        record();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off", replay_option);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(test_broker_will_log(&broker, "working set: replayed 6 pages in 4 runs"));
        for (size_t i = 0; i < ELEMENTS(wanted); i++)
                cr_assert(pb_is_present(client, wanted[i] * TEST_PAGE, TEST_PAGE), "page %llu",
                          (unsigned long long) wanted[i]);
        cr_assert(EVENTUALLY(get_stats(client).pages_present == ELEMENTS(wanted)));
        cr_assert_eq(get_stats(client).faults_linked, 0);
        cr_assert(content_is_right(client, images, 3 * TEST_PAGE, 2 * TEST_PAGE));
        cr_assert(content_is_right(client, images, 63 * TEST_PAGE, 2 * TEST_PAGE));
        cr_assert(content_is_right(client, images, 900 * TEST_PAGE, TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unmake();
}

TEST(working_set, replay_and_fill_bring_everything) {
        struct test_broker broker;
        pb_client *client;

        make(4096);
        record();
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), replay_option);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert(content_is_right(client, images, 0, 4096 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unmake();
}

TEST(working_set, of_another_vm_is_refused_in_words) {
        char log[4096];

        make(1024);
        record();
        cr_assert_neq(test_broker_refuses((const char *const[]) { "--memory=other,size=1M", replay_option, NULL }, log,
                                          sizeof log),
                      0);
        cr_assert(strstr(log, path) && strstr(log, "has no memory of a name that this VM has"), "%s", log);
        unmake();
}

TEST(working_set, that_is_cut_short_is_refused_in_words) {
        char log[4096];

        make(1024);
        record();
        cr_assert_eq(truncate(path, 200), 0);
        cr_assert_neq(test_broker_refuses(
                              (const char *const[]) { TEST_MEMORY("ram0", &image), replay_option, NULL }, log, sizeof log),
                      0);
        cr_assert(strstr(log, path) && strstr(log, "is cut short"), "%s", log);
        unmake();
}
