/* SPDX-License-Identifier: MIT */
/* A source is what it was when the broker opened it, or it is nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/basic/support.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 41, .n_pages = 512, .data_ppm = 800000 });
}

/* ---- refused at start ---- */

static void refuses(const char *memory, const char *words) {
        char log[4096];
        int status = test_broker_refuses((const char *const[]) { memory, NULL }, log, sizeof log);

        cr_assert_eq(status, 1, "%s", log);
        cr_assert(strstr(log, words), "'%s' is not in: %s", words, log);
}

TEST(identity, file_that_is_too_short_is_refused) {
        char option[256];

        make_image();
        (void) snprintf(option, sizeof option, "--memory=ram0,size=4M,source=file:%s", image.path);
        refuses(option, "too short");
        (void) snprintf(option, sizeof option, "--memory=ram0,size=2M,source-offset=4K,source=file:%s", image.path);
        refuses(option, "too short");
        (void) snprintf(option, sizeof option, "--memory=ram0,source-offset=2M,source=file:%s", image.path);
        refuses(option, "ends before source-offset");
        test_image_unlink(&image);
}

TEST(identity, what_is_not_a_file_is_refused) {
        char option[256], path[160];

        refuses("--memory=ram0,size=1M,source=file:/dev/zero", "not a regular file");
        refuses("--memory=ram0,size=1M,source=file:/tmp", "not a regular file");
        (void) snprintf(path, sizeof path, "%s/fifo-%d", getenv("TMPDIR") ?: "/tmp", (int) getpid());
        cr_assert(mkfifo(path, 0600) == 0);
        (void) snprintf(option, sizeof option, "--memory=ram0,size=1M,source=file:%s", path);
        refuses(option, "not a regular file"); /* and does not wait for a writer */
        (void) unlink(path);
}

TEST(identity, empty_and_odd_files_are_refused) {
        char option[256];

        make_image();
        cr_assert(truncate(image.path, 0) == 0);
        (void) snprintf(option, sizeof option, "--memory=ram0,size=1M,source=file:%s", image.path);
        refuses(option, "is empty");
        cr_assert(truncate(image.path, 5000) == 0);
        refuses(option, "not a multiple of 4096");
        test_image_unlink(&image);
}

/* Run as an ordinary user: root may read everything. */
static int run_broker(void *arg) {
        int log = open(*(char **) arg, O_WRONLY | O_TRUNC | O_CLOEXEC);
        char memory[256];

        CHILD_CHECK(log >= 0 && dup2(log, STDERR_FILENO) >= 0);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=file:%s", image.path);
        (void) execl(TEST_BUILD_ROOT "/broker/pagebrokerd", "pagebrokerd", "--socket=/tmp/never", memory,
                     (char *) NULL);
        return errno == EACCES ? 77 : 127;
}

TEST(identity, unreadable_file_is_refused) {
        char log_path[160] = "", text[2048] = "", *path = log_path;
        _cleanup_close_ int fd = -1;
        int status;

        require_other_uid();
        make_image();
        cr_assert(chmod(image.path, 0600) == 0);
        (void) snprintf(log_path, sizeof log_path, "%s/log-%d", getenv("TMPDIR") ?: "/tmp", (int) getpid());
        fd = open(log_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        cr_assert(fd >= 0 && fchmod(fd, 0666) == 0);
        status = test_run_as(TEST_OTHER_UID, run_broker, &path);
        cr_assert(pread(fd, text, sizeof text - 1, 0) >= 0);
        (void) unlink(log_path);
        test_image_unlink(&image);
        if (status != 77) { /* 77: another user cannot reach the program */
                cr_assert_eq(status, 1, "%s", text);
                cr_assert(strstr(text, "Permission denied") && strstr(text, "image-"), "%s", text);
        }
}

/* ---- changed while it is served ---- */

enum change {
        TRUNCATED,
        OVERWRITTEN,
        GROWN,
};

static void change_file(enum change change) {
        _cleanup_close_ int fd = open(image.path, O_WRONLY | O_CLOEXEC);
        char buf[TEST_PAGE];

        cr_assert(fd >= 0);
        memset(buf, 0x5a, sizeof buf);
        if (change == TRUNCATED)
                cr_assert(ftruncate(fd, 256 * TEST_PAGE) == 0);
        else if (change == GROWN)
                cr_assert(ftruncate(fd, 600 * TEST_PAGE) == 0);
        else
                for (unsigned i = 0; i < 512; i++)
                        cr_assert(pwrite(fd, buf, sizeof buf, i * TEST_PAGE) == TEST_PAGE);
}

static uint64_t next_data(uint64_t page) {
        while (test_image_is_hole(&image, page))
                page++;
        return page;
}

static uint64_t next_hole(uint64_t page) {
        while (!test_image_is_hole(&image, page))
                page++;
        return page;
}

static void fails_with_reason(pb_client *client, uint64_t page) {
        char offset[64];
        const char *text;

        cr_assert_eq(pb_ensure(client, page * TEST_PAGE, 1, PB_READ), -EIO);
        text = pb_explain(client);
        (void) snprintf(offset, sizeof offset, "offset 0x%llx of memory 'ram0'", (unsigned long long) page * TEST_PAGE);
        cr_assert(strstr(text, offset) && strstr(text, image.path) && strstr(text, "has changed since"), "%s", text);
}

/* Where the pages come from decides the way: page cache, or cold reads. */
static void changed(enum change change, bool hot, const char *io) {
        struct test_broker broker;
        pb_client *client;

        make_image();
        test_image_make_cold(&image);
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off", io);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, 50 * TEST_PAGE));
        change_file(change);
        if (!hot)
                test_image_make_cold(&image);
        fails_with_reason(client, next_data(60));
        fails_with_reason(client, next_data(400));
        fails_with_reason(client, next_hole(450)); /* zeros that were known to be: nobody knows any more */
        cr_assert(content_is_right(client, images, 0, 50 * TEST_PAGE)); /* what had been fetched stays */
        cr_assert(EVENTUALLY(get_stats(client).pages_in_flight == 0));
        cr_assert_eq(get_stats(client).pages_poisoned, 3);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(identity, truncated_file_is_an_error) {
        changed(TRUNCATED, false, "--io=auto");
}

TEST(identity, overwritten_file_is_an_error_from_page_cache) {
        changed(OVERWRITTEN, true, "--io=auto");
}

TEST(identity, overwritten_file_is_an_error_by_cold_reads) {
        changed(OVERWRITTEN, false, "--io=auto");
}

TEST(identity, overwritten_file_is_an_error_by_threads) {
        changed(OVERWRITTEN, false, "--io=threads");
}

TEST(identity, grown_file_is_an_error) {
        changed(GROWN, true, "--io=auto");
}

/* The memory's last page: where a truncated file has nothing at all. */
TEST(identity, last_page_of_a_truncated_file_is_an_error) {
        struct test_broker broker;
        pb_client *client;

        make_image();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        change_file(TRUNCATED);
        fails_with_reason(client, 511);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(identity, file_replaced_by_another_goes_on_being_served) {
        struct test_image other;
        struct test_broker broker;
        pb_client *client;

        make_image();
        test_image_make(&other, &(struct test_image_spec) { .seed = 42, .n_pages = 512 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        cr_assert(rename(other.path, image.path) == 0);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, 512 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(identity, removed_file_goes_on_being_served) {
        struct test_broker broker;
        pb_client *client;

        make_image();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        test_image_unlink(&image);
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, 512 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

TEST(identity, fill_stops_at_a_changed_file_and_poisons_nothing) {
        struct test_broker broker;
        pb_client *client;

        make_image();
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        change_file(OVERWRITTEN);
        cr_assert_eq(pb_set_fill(client, true), 0);
        fails_with_reason(client, next_data(100)); /* turns of the pager have passed */
        cr_assert(EVENTUALLY(get_stats(client).pages_in_flight == 0));
        cr_assert_eq(get_stats(client).pages_present, 0);
        cr_assert_eq(get_stats(client).pages_poisoned, 1);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

static uint64_t count_lost(pb_client *client, uint64_t *ret_present) {
        struct pb_stats stats = { .size = sizeof stats };

        cr_assert_eq(pb_get_stats(client, &stats), 0);
        *ret_present = stats.pages_present;
        return stats.sources_lost;
}

TEST(identity, fill_of_a_changed_file_says_so_and_takes_no_memory) {
        const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };
        struct test_broker broker;
        struct pb_region region;
        uint64_t present;
        pb_client *client;
        struct stat st;

        test_image_make(&image, &(struct test_image_spec) { .seed = 43, .n_pages = 4096 });
        TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image), "--fill=off");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(utimensat(AT_FDCWD, image.path, times, 0) == 0);
        cr_assert_eq(pb_set_fill(client, true), 0);
        cr_assert(test_broker_will_log(&broker, "cannot be had"));
        cr_assert(EVENTUALLY(count_lost(client, &present) == 1));
        cr_assert_eq(present, 0);
        cr_assert_eq(pb_get_region(client, 0, &region), 0);
        /* What was read before the change was seen is a slice or two, not the memory. */
        cr_assert(fstat(region.fd, &st) == 0 && st.st_blocks < 2 * 64 * 8);
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}
