/* SPDX-License-Identifier: MIT */
/* Restores through NBD servers of other people: every page is compared. */
#include <stdlib.h>
#include <string.h>

#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 4096u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 81, .n_pages = N_PAGES, .data_ppm = 500000 });
}

/* By demand alone: the fill would hide what it does not bring. */
static void restore(const struct test_nbd *nbd, const char *fragment, const char *more) {
        struct test_broker broker;
        pb_client *client;

        TEST_BROKER_START(&broker, test_nbd_memory("ram0", nbd, fragment), "--fill=off", more);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (uint64_t page = 0; page < N_PAGES; page += 256)
                cr_assert(ensure_is_right(client, images, page * TEST_PAGE, 256 * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(client).pages_data > 0));
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

static void stop(struct test_nbd *nbd) {
        test_nbd_stop(nbd);
        test_image_unlink(&image);
}

TEST(servers, nbdkit_file) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", image.path);
        restore(&nbd, "", "-q");
        stop(&nbd);
}

TEST(servers, fill_brings_everything) {
        struct test_nbd nbd;
        struct test_broker broker;
        pb_client *client;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", image.path);
        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""));
        client = test_connect(&broker, PB_ROLE_DEVICE);
        cr_assert(EVENTUALLY(get_stats(client).complete));
        cr_assert(content_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        stop(&nbd);
}

TEST(servers, one_connection_to_a_server_that_takes_no_more) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--filter=multi-conn", "--filter=limit", "file", image.path, "multi-conn-mode=disable", "limit=1");
        restore(&nbd, "#connections=8", "-q");
        stop(&nbd);
}

TEST(servers, server_without_structured_replies_and_extents) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--no-sr", "file", image.path);
        restore(&nbd, "", "-q");
        stop(&nbd);
}

TEST(servers, slow_server) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--filter=delay", "file", image.path, "rdelay=5ms");
        restore(&nbd, "", "-q");
        stop(&nbd);
}

TEST(servers, server_with_a_rate) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--filter=rate", "file", image.path, "rate=200M");
        restore(&nbd, "#samples=0", "-q");
        stop(&nbd);
}

/* One read in five fails: each is tried again. */
TEST(servers, server_whose_reads_fail_now_and_then) {
        struct test_nbd nbd;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--filter=error", "file", image.path, "error-pread-rate=20%");
        restore(&nbd, "#samples=0", "--source-retries=50");
        stop(&nbd);
}

/* Zeros that the server knows of are never read. */
TEST(servers, known_zeros_cost_no_read) {
        struct test_nbd nbd;
        struct test_broker broker;
        pb_client *client;

        require_program("nbdkit");
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", image.path);
        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(EVENTUALLY(get_stats(client).pages_data > 0)); /* all of the allocation is known */
        cr_assert(EVENTUALLY(get_stats(client).pages_data == test_image_count_data(&image)));
        cr_assert(ensure_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        cr_assert(EVENTUALLY(get_stats(client).bytes_fetched == test_image_count_data(&image) * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        stop(&nbd);
}

/* A base and a difference, both compressed: what QEMU's tools make of snapshots. */
TEST(servers, qemu_nbd_from_a_compressed_qcow2_with_a_backing_file) {
        struct test_nbd nbd;
        const char *backing;

        require_program("qemu-nbd");
        require_program("qemu-img");
        require_program("qemu-io");
        make_image();
        test_nbd_prepare(&nbd);
        /* The backing file has 1 MiB of something else, which the upper one covers again with what is right. */
        TEST_RUN("cp", "--sparse=never", image.path, test_nbd_path(&nbd, "wrong.raw"));
        TEST_RUN("qemu-io", "-f", "raw", "-c", "write -P 0x5a 3M 1M", test_nbd_path(&nbd, "wrong.raw"));
        TEST_RUN("qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", test_nbd_path(&nbd, "wrong.raw"),
                 test_nbd_path(&nbd, "base.qcow2"));
        backing = test_nbd_path(&nbd, "base.qcow2");
        TEST_RUN("qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-B", backing, "-F", "qcow2", image.path,
                 test_nbd_path(&nbd, "diff.qcow2"));
        TEST_QEMU_NBD(&nbd, "--read-only", "-f", "qcow2", "-e", "8", test_nbd_path(&nbd, "diff.qcow2"));
        restore(&nbd, "", "-q");
        stop(&nbd);
}

TEST(servers, broker_that_has_become_another_user) {
        struct test_nbd nbd;

        require_program("nbdkit");
        require_other_uid();
        make_image();
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "file", image.path);
        restore(&nbd, "", "--user=65534");
        stop(&nbd);
}

TEST(servers, none_there_is_refused_with_the_reason) {
        char log[4096];
        int status = test_broker_refuses((const char *const[]) { "--memory=ram0,source=nbd:nbd+unix:///?socket=/does/not/exist", NULL },
                                         log, sizeof log);

        cr_assert_eq(status, 1, "%s", log);
        cr_assert(strstr(log, "/does/not/exist") && strstr(log, "No such file"), "%s", log);
}

TEST(servers, odd_size_is_refused) {
        struct test_nbd nbd;
        char log[4096];

        require_program("nbdkit");
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "memory", "5000");
        cr_assert_eq(test_broker_refuses((const char *const[]) { test_nbd_memory("ram0", &nbd, ""), NULL }, log, sizeof log), 1);
        cr_assert(strstr(log, "not a multiple of 4096"), "%s", log);
        test_nbd_stop(&nbd);
}

TEST(servers, unknown_word_after_the_uri_is_refused) {
        struct test_nbd nbd;
        char log[4096];

        test_nbd_prepare(&nbd);
        cr_assert_eq(test_broker_refuses((const char *const[]) { test_nbd_memory("ram0", &nbd, "#conections=2"), NULL }, log, sizeof log), 1);
        cr_assert(strstr(log, "conections=2"), "%s", log);
        test_nbd_stop(&nbd);
}
