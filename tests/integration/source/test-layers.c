/* SPDX-License-Identifier: MIT */
/* A base and differences over it: of each page the topmost that has data. Snapshot files of QEMU and Firecracker. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 4096u
#define N_LAYERS 3u

/* layers[0] is the base. */
static struct test_image layers[N_LAYERS];

static void make_layers(const char *dir) {
        for (unsigned i = 0; i < N_LAYERS; i++)
                test_image_make(&layers[i], &(struct test_image_spec) { .seed = 200 + i, .n_pages = N_PAGES, .dir = dir,
                                                                        .data_ppm = i == 0 ? 900000 : 150000, .run_pages = 3 });
}

static void unlink_layers(void) {
        for (unsigned i = 0; i < N_LAYERS; i++)
                test_image_unlink(&layers[i]);
}

static void fill_expected(uint64_t page, void *buf) {
        unsigned i = N_LAYERS - 1;

        while (i > 0 && test_image_is_hole(&layers[i], page))
                i--;
        test_image_fill(&layers[i], page, buf);
}

static bool page_is_right(const char *memory, uint64_t page) {
        char expected[TEST_PAGE];

        fill_expected(page, expected);
        if (memcmp(memory + page * TEST_PAGE, expected, TEST_PAGE) == 0)
                return true;
        fprintf(stderr, "page %llu is wrong\n", (unsigned long long) page);
        return false;
}

static const char *layered(const char *base, const char *more) {
        static char text[900];

        (void) snprintf(text, sizeof text, "--memory=ram0,source=%s,layer=file:%s,layer=file:%s%s", base, layers[1].path, layers[2].path,
                        more);
        return text;
}

static const char *base_file(void) {
        static char text[200];

        (void) snprintf(text, sizeof text, "file:%s", layers[0].path);
        return text;
}

/* Pieces of odd lengths, so that requests begin and end inside runs. */
static void check_all(pb_client *client) {
        const char *memory = get_region(client, 0).addr;

        for (uint64_t page = 0, n; page < N_PAGES; page += n) {
                n = min_u64(1 + page % 97, N_PAGES - page);
                test_ensure(client, page * TEST_PAGE, n * TEST_PAGE, PB_READ);
                for (uint64_t i = page; i < page + n; i++)
                        cr_assert(page_is_right(memory, i));
        }
}

static void restore(const char *base, const char *fill, const char *io) {
        struct test_broker broker;
        pb_client *client;

        TEST_BROKER_START(&broker, layered(base, ""), fill, io);
        client = test_connect(&broker, PB_ROLE_VMM);
        check_all(client);
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

TEST(layers, topmost_data_wins_from_page_cache) {
        make_layers(NULL);
        restore(base_file(), "--fill=off", "--io=auto");
        unlink_layers();
}

TEST(layers, topmost_data_wins_by_cold_reads) {
        make_layers(NULL);
        for (unsigned i = 0; i < N_LAYERS; i++)
                test_image_make_cold(&layers[i]);
        restore(base_file(), "--fill=off", "--io=auto");
        unlink_layers();
}

TEST(layers, topmost_data_wins_by_threads) {
        make_layers("/dev/shm"); /* no RWF_NOWAIT: each page is a cold read */
        restore(base_file(), "--fill=off", "--io=threads");
        unlink_layers();
}

TEST(layers, fill_brings_all_of_them) {
        struct test_broker broker;
        pb_client *client;

        make_layers(NULL);
        for (unsigned i = 0; i < N_LAYERS; i++)
                test_image_make_cold(&layers[i]);
        TEST_BROKER_START(&broker, layered(base_file(), ""));
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        for (uint64_t page = 0; page < N_PAGES; page++)
                cr_assert(page_is_right(get_region(client, 0).addr, page));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

TEST(layers, base_may_be_an_nbd_export) {
        struct test_nbd nbd;
        char base[300];

        require_program("nbdkit");
        make_layers(NULL);
        for (unsigned i = 1; i < N_LAYERS; i++)
                test_image_make_cold(&layers[i]);
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", layers[0].path);
        (void) snprintf(base, sizeof base, "nbd:%s", nbd.uri);
        restore(base, "--fill=off", "--io=auto");
        test_nbd_stop(&nbd);
        unlink_layers();
}

static void write_at(const struct test_image *image, uint64_t offset, const void *data, size_t size) {
        _cleanup_close_ int fd = open(image->path, O_WRONLY | O_CLOEXEC);

        cr_assert(fd >= 0 && pwrite(fd, data, size, (off_t) offset) == (ssize_t) size);
}

static uint64_t page_of_the_base(void) {
        uint64_t page = 100;

        while (test_image_is_hole(&layers[0], page) || !test_image_is_hole(&layers[1], page) ||
               !test_image_is_hole(&layers[2], page))
                page++;
        return page;
}

/* Whoever writes differences writes whole pages: what else is in the page is zeros, not what lies below. */
TEST(layers, page_of_which_a_layer_has_a_byte_is_the_layers) {
        struct test_broker broker;
        pb_client *client;
        const char *memory;
        uint64_t page;

        make_layers(NULL);
        page = page_of_the_base();
        write_at(&layers[2], page * TEST_PAGE + 1000, "difference", 10);
        TEST_BROKER_START(&broker, layered(base_file(), ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        memory = (char *) get_region(client, 0).addr + page * TEST_PAGE;
        test_ensure(client, page * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert(memcmp(memory + 1000, "difference", 10) == 0);
        cr_assert(is_zero(memory, 1000) && is_zero(memory + 1010, TEST_PAGE - 1010));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

TEST(layers, written_zeros_hide_what_lies_below) {
        static const char zeros[TEST_PAGE];
        struct test_broker broker;
        pb_client *client;
        uint64_t page;

        make_layers(NULL);
        page = page_of_the_base();
        write_at(&layers[1], page * TEST_PAGE, zeros, sizeof zeros);
        TEST_BROKER_START(&broker, layered(base_file(), ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, page * TEST_PAGE, TEST_PAGE, PB_READ);
        cr_assert(is_zero((char *) get_region(client, 0).addr + page * TEST_PAGE, TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

TEST(layers, shorter_layer_ends_and_the_lower_one_shows) {
        struct test_broker broker;
        pb_client *client;

        make_layers(NULL);
        cr_assert(truncate(layers[2].path, N_PAGES / 2 * TEST_PAGE) == 0);
        TEST_BROKER_START(&broker, layered(base_file(), ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, N_PAGES * TEST_PAGE, PB_READ);
        for (uint64_t page = 0; page < N_PAGES; page++) {
                char expected[TEST_PAGE];
                unsigned top = page < N_PAGES / 2 ? 2 : 1;

                while (top > 0 && test_image_is_hole(&layers[top], page))
                        top--;
                test_image_fill(&layers[top], page, expected);
                cr_assert(memcmp((char *) get_region(client, 0).addr + page * TEST_PAGE, expected, TEST_PAGE) == 0, "page %u",
                          (unsigned) page);
        }
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

/* Any of them. */
TEST(layers, changed_layer_is_an_error) {
        struct test_broker broker;
        pb_client *client;

        make_layers(NULL);
        TEST_BROKER_START(&broker, layered(base_file(), ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, 64 * TEST_PAGE, PB_READ);
        write_at(&layers[1], 0, "changed", 7);
        cr_assert_eq(pb_ensure(client, page_of_the_base() * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(client), "has changed since"), "%s", pb_explain(client));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

/* ---- refused ---- */

static void refuses(const char *memory, const char *words) {
        char log[4096];

        cr_assert(test_broker_refuses((const char *const[]) { memory, NULL }, log, sizeof log) != 0);
        cr_assert(strstr(log, words), "'%s' is not in: %s", words, log);
}

TEST(layers, what_cannot_be_a_layer_is_refused) {
        char option[900];

        make_layers(NULL);
        refuses("--memory=ram0,size=16M,layer=file:/x", "needs a source=");
        refuses(layered(base_file(), ",layer=nbd:nbd://localhost"), "must be file:PATH");
        refuses(layered(base_file(), ",layer=file:/does/not/exist"), "No such file");
        cr_assert(truncate(layers[2].path, 2 * N_PAGES * TEST_PAGE) == 0);
        refuses(layered(base_file(), ""), "is larger than the source below it");
        (void) snprintf(option, sizeof option, "--memory=ram0,source=%s", base_file());
        for (unsigned i = 0; i < 16; i++)
                (void) strncat(option, ",layer=file:/x", sizeof option - strlen(option) - 1);
        refuses(option, "at most 15 layers");
        unlink_layers();
}

/* One byte, and 2 MiB are data. */
TEST(layers, tmpfs_with_huge_pages_is_refused) {
        char dir[100], option[500];

        require_root();
        make_layers(NULL);
        (void) snprintf(dir, sizeof dir, "%s/huge-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(dir) != NULL);
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", dir, "tmpfs", 0, "huge=always") < 0) {
                (void) rmdir(dir);
                unlink_layers();
                cr_skip_test("tmpfs with huge pages: %s", strerror(errno));
        }
        (void) snprintf(option, sizeof option, "%s/diff", dir);
        TEST_RUN("cp", layers[1].path, option);
        (void) snprintf(option, sizeof option, "--memory=ram0,source=%s,layer=file:%s/diff", base_file(), dir);
        refuses(option, "tmpfs with huge pages");
        cr_assert(umount2(dir, MNT_DETACH) == 0);
        (void) rmdir(dir);
        unlink_layers();
}

/* ---- other people's snapshot files ---- */

/*
 * Firecracker: the memory file has the guest's regions one after the other (below the hole for devices, and from 4 GiB
 * on); a difference is a sparse file of the same size, with the dirty pages where they belong.
 */
TEST(snapshots, firecracker_full_and_two_differences) {
        const uint64_t low = 3 * N_PAGES / 4 * TEST_PAGE, high = N_PAGES * TEST_PAGE - low;
        struct test_broker broker;
        char one[100], two[100];
        pb_client *client;

        make_layers(NULL);
        (void) snprintf(one, sizeof one, "--region=0,size=%llu,memory=ram0", (unsigned long long) low);
        (void) snprintf(two, sizeof two, "--region=4G,size=%llu,memory=ram0,offset=%llu", (unsigned long long) high,
                        (unsigned long long) low);
        TEST_BROKER_START(&broker, layered(base_file(), ""), one, two);
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 0, low, PB_READ);
        test_ensure(client, 4ull << 30, high, PB_READ);
        for (uint64_t page = 0; page < N_PAGES; page++) {
                uint64_t offset = page * TEST_PAGE;
                char expected[TEST_PAGE];

                fill_expected(page, expected);
                cr_assert(memcmp(pb_translate(client, offset < low ? offset : (4ull << 30) + offset - low, TEST_PAGE), expected,
                                 TEST_PAGE) == 0);
        }
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_layers();
}

/*
 * QEMU's migration to a file with "mapped-ram": a stream in which each block of memory lies at a fixed offset, a multiple of
 * 1 MiB, pages of zeros left out, with the rest of the stream before, between and behind.
 */
TEST(snapshots, qemu_mapped_ram_file_with_two_blocks) {
        static const uint64_t at[2] = { 1 << 20, 20 << 20 };
        char path[128], memory[2][300], noise[TEST_PAGE];
        struct test_image blocks[2];
        struct test_broker broker;
        pb_client *client;
        int fd;

        (void) snprintf(path, sizeof path, "%s/mapped-ram-%d", getenv("TMPDIR") ?: "/tmp", (int) getpid());
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        cr_assert(fd >= 0);
        memset(noise, 'q', sizeof noise);
        cr_assert(pwrite(fd, noise, 300, 0) == 300 && pwrite(fd, noise, 777, 19 << 20) == 777);
        for (unsigned b = 0; b < 2; b++) {
                test_image_describe(&blocks[b], &(struct test_image_spec) { .seed = 300 + b, .n_pages = 1024, .data_ppm = 500000 });
                for (uint64_t page = 0; page < 1024; page++) {
                        char buf[TEST_PAGE];

                        if (test_image_is_hole(&blocks[b], page))
                                continue;
                        test_image_fill(&blocks[b], page, buf);
                        cr_assert(pwrite(fd, buf, sizeof buf, (off_t) (at[b] + page * TEST_PAGE)) == TEST_PAGE);
                }
                (void) snprintf(memory[b], sizeof memory[b], "--memory=ram%u,size=4M,source=file:%s,source-offset=%llu", b, path,
                                (unsigned long long) at[b]);
        }
        cr_assert(pwrite(fd, noise, 1234, (20 << 20) + (4 << 20)) == 1234); /* the devices: an odd end */
        fd = fd_close(fd);
        TEST_BROKER_START(&broker, memory[0], memory[1], "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_check_everything(client, (const struct test_image *const[]) { &blocks[0], &blocks[1] }, 1 << 20);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        (void) unlink(path);
}
