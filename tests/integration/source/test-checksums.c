/* SPDX-License-Identifier: MIT */
/* Checksums beside an image: what does not match them is never installed, whichever way it was read. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/integration/failure/failure.h"
#include "tests/lib/nbd.h"

#define TOOL TEST_BUILD_ROOT "/client/checksum/pagebroker-checksum"
#define PAGES 1024u

static struct test_image image;
static const struct test_image *const images[] = { &image };
static char sums[160];

/* Its exit status. */
static int run_tool(const char *option, const char *option2) {
        char *argv[] = { (char *) TOOL, (char *) "-q", (char *) "-o", sums, image.path, (char *) option, (char *) option2, NULL };
        pid_t pid;
        int status;

        cr_assert_eq(posix_spawn(&pid, TOOL, NULL, NULL, argv, environ), 0);
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static void make_image(uint32_t data_ppm, const char *block_size) {
        char option[64];

        test_image_make(&image, &(struct test_image_spec) { .seed = 43, .n_pages = PAGES, .data_ppm = data_ppm, .run_pages = 5 });
        (void) snprintf(sums, sizeof sums, "%s.sums", image.path);
        (void) snprintf(option, sizeof option, "--block-size=%s", block_size);
        cr_assert_eq(run_tool(option, NULL), 0);
}

static void unlink_image(void) {
        (void) unlink(sums);
        test_image_unlink(&image);
}

static const char *with_sums(const char *more) {
        static char text[256];

        (void) snprintf(text, sizeof text, ",checksums=%s%s", sums, more);
        return text;
}

/* ---- what is right comes ---- */

static void everything_comes(uint32_t data_ppm, const char *block_size, const char *more, bool cold, const char *option) {
        struct test_broker broker;
        pb_client *client;

        make_image(data_ppm, block_size);
        if (cold)
                test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, with_sums(more)), option);
        client = test_connect(&broker, PB_ROLE_VMM);
        for (uint64_t page = 1; page < PAGES; page += 37) /* in the middle of blocks, before the fill comes by */
                cr_assert(ensure_is_right(client, images, page * TEST_PAGE, TEST_PAGE));
        test_check_everything(client, images, 100 * TEST_PAGE);
        cr_assert_eq(get_stats(client).pages_poisoned, 0);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_image();
}

TEST(checksums, image_in_page_cache_comes) {
        everything_comes(0, "64K", "", false, "--fill=off");
        everything_comes(600000, "4K", "", false, "--fill=on");
        everything_comes(600000, "256K", "", false, "--fill=off");
}

TEST(checksums, image_that_is_cold_comes) {
        everything_comes(0, "64K", "", true, "--io=threads");
        everything_comes(600000, "4K", "", true, "--fill=off");
        everything_comes(600000, "256K", "", true, "--fill=on");
}

TEST(checksums, image_comes_onto_huge_pages) {
        require_hugepages(2, HUGE_2M);
        everything_comes(600000, "64K", ",huge=2M", false, "--fill=on");
        everything_comes(600000, "64K", ",huge=2M", true, "--fill=off");
}

/* 100 pages from page 48 on: the memory begins at a block and ends inside one. */
TEST(checksums, part_of_an_image_comes) {
        struct test_broker broker;
        pb_client *client;
        char *memory;

        make_image(0, "64K");
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, with_sums(",size=400K,source-offset=192K")), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        memory = get_region(client, 0).addr;
        test_ensure(client, 99 * TEST_PAGE, TEST_PAGE, PB_READ);
        test_ensure(client, 0, 100 * TEST_PAGE, PB_READ);
        test_image_assert(&image, 48, 100, memory);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_image();
}

TEST(checksums, blocks_of_zeros_are_not_read) {
        struct test_broker broker;
        char zeros[64 << 10] = "";
        pb_client *client;
        int fd;

        make_image(0, "64K");
        fd = open(image.path, O_WRONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && pwrite(fd, zeros, sizeof zeros, 128 << 10) == sizeof zeros); /* data of the file, all zeros */
        (void) close(fd);
        cr_assert_eq(run_tool("--block-size=64K", NULL), 0);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, with_sums("")), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        test_ensure(client, 32 * TEST_PAGE, 16 * TEST_PAGE, PB_READ);
        cr_assert(is_zero((char *) get_region(client, 0).addr + 32 * TEST_PAGE, 16 * TEST_PAGE));
        cr_assert_eq(get_stats(client).bytes_fetched, 0);
        cr_assert(EVENTUALLY(get_stats(client).pages_data == PAGES - 16));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_image();
}

/* ---- what is wrong does not ---- */

/* Changes one byte in the middle of page 100, whose block (64K) is pages 96 to 111. */
static void damage_image(bool hole) {
        _cleanup_close_ int fd = open(image.path, O_RDWR | O_CLOEXEC);
        char byte;

        cr_assert(fd >= 0 && pread(fd, &byte, 1, 100 * TEST_PAGE + 7) == 1);
        byte = (char) (byte ^ 1);
        if (hole) /* what a copy that lost data looks like */
                cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100 * TEST_PAGE, TEST_PAGE), 0);
        else
                cr_assert_eq(pwrite(fd, &byte, 1, 100 * TEST_PAGE + 7), 1);
}

static void damaged_block_is_an_error(bool hole, bool cold) {
        struct test_broker broker;
        pb_client *client;

        make_image(0, "64K");
        damage_image(hole);
        if (cold)
                test_image_make_cold(&image);
        TEST_BROKER_START(&broker, test_memory("ram0", &image, with_sums("")), "--fill=off", "--source-retries=1");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert_eq(pb_ensure(client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(client), "does not match its checksum"), "%s", pb_explain(client));
        cr_assert_eq(pb_ensure(client, 96 * TEST_PAGE, 1, PB_READ), -EIO, "nobody knows which page of the block is wrong");
        cr_assert(ensure_is_right(client, images, 0, 96 * TEST_PAGE));
        cr_assert(ensure_is_right(client, images, 112 * TEST_PAGE, (PAGES - 112) * TEST_PAGE));
        cr_assert(!pb_is_present(client, 100 * TEST_PAGE, 1) && !pb_is_present(client, 96 * TEST_PAGE, 1));
        cr_assert(is_zero((char *) get_region(client, 0).addr + 96 * TEST_PAGE, 16 * TEST_PAGE), "wrong bytes are in memory");
        client = test_disconnect(client);
        test_broker_stop(&broker);
        unlink_image();
}

TEST(checksums, damaged_block_in_page_cache_is_an_error) {
        damaged_block_is_an_error(false, false);
}

TEST(checksums, damaged_block_that_is_cold_is_an_error) {
        damaged_block_is_an_error(false, true);
}

TEST(checksums, data_that_became_a_hole_is_an_error) {
        damaged_block_is_an_error(true, false);
}

/* The far side has no file that could be looked at, and its zeros are its own word. */
static void nbd_server(bool damaged) {
        struct test_broker broker;
        struct test_nbd nbd;
        pb_client *client;
        char memory[512];

        require_program("nbdkit");
        if (access(TEST_BUILD_ROOT "/sources/nbd/pagebroker-nbd", X_OK) < 0)
                cr_skip_test("built without libnbd");
        make_image(damaged ? 0 : 600000, "64K");
        if (damaged)
                damage_image(true);
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", image.path);
        (void) snprintf(memory, sizeof memory, "%s,checksums=%s", test_nbd_memory("ram0", &nbd, ""), sums);
        TEST_BROKER_START(&broker, memory, "--fill=off", "--source-retries=1");
        client = test_connect(&broker, PB_ROLE_VMM);
        if (damaged) {
                cr_assert_eq(pb_ensure(client, 100 * TEST_PAGE, 1, PB_READ), -EIO);
                cr_assert(strstr(pb_explain(client), "does not match its checksum"), "%s", pb_explain(client));
        } else
                cr_assert(ensure_is_right(client, images, 96 * TEST_PAGE, 16 * TEST_PAGE));
        cr_assert(ensure_is_right(client, images, 0, 96 * TEST_PAGE));
        cr_assert(ensure_is_right(client, images, 112 * TEST_PAGE, (PAGES - 112) * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_nbd_stop(&nbd);
        unlink_image();
}

TEST(checksums, image_from_an_nbd_server_comes) {
        nbd_server(false);
}

TEST(checksums, damaged_block_from_an_nbd_server_is_an_error) {
        nbd_server(true);
}

/* ---- a source that lies ---- */

/* As failure_start(), with checksums of what the image truly is. */
static void lying_start(struct failure *f, const char *option, const char *option2) {
        require_fuse();
        *f = (struct failure) { .images = { &f->image } };
        make_image(0, "64K");
        f->image = image;
        test_gate_start(&f->gate, &f->image);
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, with_sums("")), "--fill=off", "--heal-interval=0",
                          option, option2);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

static void lying_stop(struct failure *f) {
        failure_stop(f);
        (void) unlink(sums);
}

TEST(checksums, lie_that_is_told_once_is_not_seen) {
        struct failure f;

        lying_start(&f, "--source-retries=2", "--io=auto");
        test_gate_lie(&f.gate, 100 * TEST_PAGE, TEST_PAGE, TEST_GATE_ONCE);
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 64 * TEST_PAGE));
        cr_assert_eq(test_gate_count(&f.gate, 100 * TEST_PAGE, TEST_PAGE), 2);
        cr_assert_eq(test_gate_count(&f.gate, 64 * TEST_PAGE, 16 * TEST_PAGE), 1, "a block that was right was read again");
        lying_stop(&f);
}

TEST(checksums, lie_is_an_error_until_it_is_healed) {
        struct failure f;

        lying_start(&f, "--source-retries=1", "--io=threads");
        test_gate_lie(&f.gate, 100 * TEST_PAGE, TEST_PAGE, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 64 * TEST_PAGE, 64 * TEST_PAGE, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(f.client), "does not match its checksum"), "%s", pb_explain(f.client));
        cr_assert(test_broker_will_log(&f.broker, "does not match its checksum"));
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 32 * TEST_PAGE));
        cr_assert_eq(pb_ensure(f.client, 111 * TEST_PAGE, 1, PB_READ), -EIO);
        test_gate_open(&f.gate);
        cr_assert_eq(failure_heal(&f, 0, 0), 16);
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 64 * TEST_PAGE));
        lying_stop(&f);
}

TEST(checksums, fill_leaves_a_damaged_block_out_until_it_is_healed) {
        struct failure f;

        lying_start(&f, "--source-retries=1", "--io=auto");
        test_gate_lie(&f.gate, 100 * TEST_PAGE, TEST_PAGE, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_left_out == 16));
        cr_assert_eq(get_stats(f.client).pages_present, PAGES - 16);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        cr_assert(test_broker_will_log(&f.broker, "leaves out 16 pages"));
        cr_assert(test_broker_will_log(&f.broker, "begins with page 96 (offset 0x60000)"));
        test_gate_open(&f.gate);
        cr_assert_eq(failure_heal(&f, 0, 0), 0, "none was poisoned");
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        cr_assert_eq(get_stats(f.client).pages_left_out, 0);
        cr_assert(ensure_is_right(f.client, images, 64 * TEST_PAGE, 64 * TEST_PAGE));
        lying_stop(&f);
}

TEST(checksums, page_that_the_fill_left_out_comes_to_who_wants_it) {
        struct failure f;

        lying_start(&f, "--source-retries=0", "--io=auto");
        test_gate_lie(&f.gate, 100 * TEST_PAGE, TEST_PAGE, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_set_fill(f.client, true), 0);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_left_out == 16));
        test_gate_open(&f.gate);
        cr_assert(ensure_is_right(f.client, images, 96 * TEST_PAGE, 16 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        cr_assert_eq(get_stats(f.client).pages_left_out, 0);
        lying_stop(&f);
}

/* The page that is wanted is right; another one of its block is not. */
TEST(checksums, lie_about_a_neighbour_in_the_block_is_an_error) {
        struct failure f;

        lying_start(&f, "--source-retries=0", "--io=auto");
        test_gate_lie(&f.gate, 111 * TEST_PAGE, TEST_PAGE, TEST_GATE_ALWAYS);
        cr_assert_eq(pb_ensure(f.client, 96 * TEST_PAGE, 1, PB_READ), -EIO);
        lying_stop(&f);
}

TEST(checksums, short_answers_are_completed) {
        struct failure f;

        lying_start(&f, "--source-retries=3", "--io=auto");
        test_gate_cut(&f.gate, 96 * TEST_PAGE, 16 * TEST_PAGE, 3 * TEST_PAGE + 100, TEST_GATE_ONCE);
        cr_assert(ensure_is_right(f.client, images, 98 * TEST_PAGE, 10 * TEST_PAGE));
        lying_stop(&f);
}

TEST(checksums, overwritten_page_of_a_block_keeps_what_was_written) {
        struct ensure_call call;
        struct failure f;
        char *memory;

        lying_start(&f, "--source-retries=0", "--io=auto");
        memory = get_region(f.client, 0).addr;
        test_gate_hold(&f.gate, 96 * TEST_PAGE, 16 * TEST_PAGE);
        ensure_start(&call, f.client, 96 * TEST_PAGE, 16 * TEST_PAGE, PB_READ);
        test_gate_wait_held(&f.gate, 96 * TEST_PAGE, 16 * TEST_PAGE, 1);
        test_ensure(f.client, 100 * TEST_PAGE, TEST_PAGE, PB_OVERWRITE);
        memset(memory + 100 * TEST_PAGE, 'w', TEST_PAGE);
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0);
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(memory[100 * TEST_PAGE + i], 'w');
        cr_assert(content_is_right(f.client, images, 96 * TEST_PAGE, 4 * TEST_PAGE));
        cr_assert(content_is_right(f.client, images, 101 * TEST_PAGE, 11 * TEST_PAGE));
        lying_stop(&f);
}

/* ---- files of checksums that are none ---- */

static void refuses(const char *more, const char *words) {
        const char *memory = test_memory("ram0", &image, more);
        char log[4096];
        int status = test_broker_refuses((const char *const[]) { memory, NULL }, log, sizeof log);

        cr_assert_eq(status, 1, "%s", log);
        cr_assert(strstr(log, words), "'%s' is not in: %s", words, log);
}

static void flip_byte(off_t at) {
        _cleanup_close_ int fd = open(sums, O_RDWR | O_CLOEXEC);
        uint8_t byte;

        cr_assert(fd >= 0 && pread(fd, &byte, 1, at) == 1);
        byte ^= 0x10;
        cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
}

TEST(checksums, damaged_file_is_refused) {
        static const off_t header[] = { 8, 20, 24, 32, 3000, 4090 };
        struct stat st;

        make_image(0, "64K");
        refuses(",checksums=/does/not/exist", "No such file");
        refuses(",checksums=/dev/null", "not a regular file");
        cr_assert_eq(stat(sums, &st), 0);
        flip_byte(0);
        refuses(with_sums(""), "not a file of pagebroker-checksum");
        flip_byte(0);
        for (unsigned i = 0; i < ELEMENTS(header); i++) {
                flip_byte(header[i]);
                refuses(with_sums(""), i == 0 ? "version" : "damaged");
                flip_byte(header[i]);
        }
        flip_byte(4096 + 100);
        refuses(with_sums(""), "table does not match");
        flip_byte(4096 + 100);
        cr_assert_eq(truncate(sums, st.st_size - 16), 0);
        refuses(with_sums(""), "its size does not fit");
        cr_assert_eq(truncate(sums, 1000), 0);
        refuses(with_sums(""), "too short");
        unlink_image();
}

TEST(checksums, file_of_another_image_is_refused) {
        make_image(0, "64K");
        cr_assert_eq(truncate(image.path, 2 * PAGES * TEST_PAGE), 0);
        refuses(with_sums(""), "another size");
        unlink_image();
}

TEST(checksums, source_offset_inside_a_block_is_refused) {
        make_image(0, "64K");
        refuses(with_sums(",size=1M,source-offset=32K"), "source-offset is not a multiple");
        unlink_image();
}

/* ---- the tool ---- */

TEST(checksums, tool_finds_what_differs) {
        make_image(600000, "64K");
        cr_assert_eq(run_tool("--check", NULL), 0);
        damage_image(false);
        cr_assert_eq(run_tool("--check", NULL), 1);
        unlink_image();
}

TEST(checksums, tool_refuses_what_is_no_image) {
        make_image(0, "64K");
        cr_assert_eq(run_tool("--block-size=3K", NULL), 2);
        cr_assert_eq(run_tool("--block-size=512K", NULL), 2);
        cr_assert_eq(run_tool(image.path, NULL), 2);
        cr_assert_eq(truncate(image.path, 5000), 0);
        cr_assert_eq(run_tool("--block-size=64K", NULL), 1);
        cr_assert_eq(run_tool("--check", NULL), 1);
        unlink_image();
}
