/* SPDX-License-Identifier: MIT */
/* The plan that is made of a recorded working set. */
#include "broker/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/memory.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/working-set.h"
#include "tests/lib/test.h"

#define N_PAGES 10000u

static struct source source = { .fd = -1 };
static struct memory memory = { .name = "ram0", .size = N_PAGES * PB_PAGE_BYTES, .n_pages = N_PAGES, .source = &source };
static struct memory *const memories[] = { &memory };
static struct replay_target target = { .vm = "web1", .memories = memories, .n_memories = 1, .force = true };

struct file {
        struct pb_working_set_header header;
        struct pb_working_set_memory memory;
        struct pb_working_set_client client;
        struct pb_working_set_entry entries[64];
};

static uint64_t file_size(const struct file *file) {
        return offsetof(struct file, entries) + file->header.n_entries * sizeof file->entries[0];
}

static struct file make_file(const struct pb_working_set_entry *entries, unsigned n) {
        struct file file = {
                .header = { .magic = PB_WORKING_SET_MAGIC, .version = 1, .n_memories = 1, .n_clients = 1, .n_entries = n, .vm = "web1" },
                .memory = { .name = "ram0", .size = N_PAGES * PB_PAGE_BYTES },
        };

        memcpy(file.entries, entries, n * sizeof entries[0]);
        file.header.size = file_size(&file);
        return file;
}

static int plan(struct replay **ret, const struct file *file, uint64_t size, char **ret_notice, char **ret_error) {
        *ret_notice = *ret_error = NULL;
        return replay_new(ret, file, size, &target, ret_notice, ret_error);
}

static void assert_runs(const struct pb_working_set_entry *entries, unsigned n, const uint64_t (*runs)[2], unsigned n_runs) {
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct file file = make_file(entries, n);
        struct replay *replay;

        cr_assert_eq(plan(&replay, &file, file_size(&file), &notice, &error), 0, "%s", error);
        cr_assert_eq(replay->n_runs, n_runs);
        for (unsigned i = 0; i < n_runs; i++) {
                cr_assert_eq(replay->runs[i].first, runs[i][0], "run %u", i);
                cr_assert_eq(replay->runs[i].count, runs[i][1], "run %u", i);
        }
        (void) replay_free(replay);
}
#define ENTRIES(...) ((const struct pb_working_set_entry[]) { __VA_ARGS__ })
#define RUNS(...) ((const uint64_t[][2]) { __VA_ARGS__ })

TEST(replay, joins_what_was_wanted_together_and_lies_together) {
        assert_runs(ENTRIES({ 0, 40, 2 }, { 10, 30, 3 }, { 20, 33, 4 }, { 30, 500, 1 }), 4, RUNS({ 30, 12 }, { 500, 1 }), 2);
}

TEST(replay, keeps_the_order_of_time_between_batches) {
        assert_runs(ENTRIES({ 0, 900, 1 }, { 100000, 3, 1 }, { 200000, 901, 1 }), 3, RUNS({ 900, 1 }, { 3, 1 }, { 901, 1 }),
                    3);
}

TEST(replay, leaves_out_what_this_memory_does_not_have) {
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct file file = make_file(ENTRIES({ 0, 5, 1 }, { 0, N_PAGES, 3 }), 2);
        struct replay *replay;

        file.memory.size = 2ull * N_PAGES * PB_PAGE_BYTES;
        cr_assert_eq(plan(&replay, &file, file_size(&file), &notice, &error), 0, "%s", error);
        cr_assert(notice && strstr(notice, "memory ram0 had 81920000 bytes and has 40960000 here"), "%s", notice);
        cr_assert_eq(replay->n_runs, 1);
        cr_assert_eq(replay->n_pages, 1);
        (void) replay_free(replay);
}

/* ---- whose it is ---- */

static void assert_other(const struct file *file, const char *why) {
        _cleanup_free_ char *notice = NULL, *error = NULL, *forced_notice = NULL, *none = NULL;
        struct replay *replay;

        target.force = false;
        cr_assert_eq(plan(&replay, file, file_size(file), &notice, &error), -EXDEV, "%s", why);
        cr_assert(error && strstr(error, why), "%s", error);
        target.force = true;
        cr_assert_eq(plan(&replay, file, file_size(file), &forced_notice, &none), 0);
        cr_assert(forced_notice && strstr(forced_notice, why), "%s", forced_notice);
        cr_assert_eq(replay->n_pages, 1);
        (void) replay_free(replay);
}

static void assert_ours(const struct file *file, const char *notice_or_null) {
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct replay *replay;

        target.force = false;
        cr_assert_eq(plan(&replay, file, file_size(file), &notice, &error), 0, "%s", error);
        if (notice_or_null)
                cr_assert(notice && strstr(notice, notice_or_null), "%s", notice);
        else
                cr_assert_null(notice);
        (void) replay_free(replay);
        target.force = true;
}

TEST(replay, from_another_source_needs_force_and_names_both) {
        struct file file = make_file(ENTRIES({ 0, 5, 1 }), 1);

        source.name = (char *) "nbd://here/ram";
        (void) snprintf(file.memory.source, sizeof file.memory.source, "nbd://there/ram");
        assert_other(&file, "memory ram0 was taken from nbd://there/ram, and comes from nbd://here/ram here");
        (void) snprintf(file.memory.source, sizeof file.memory.source, "nbd://here/ram");
        assert_ours(&file, NULL);
        file.memory.source_offset = 4096;
        assert_other(&file, "which was another file then, or has changed");
}

TEST(replay, from_another_vm_of_the_same_source_is_told) {
        struct file file = make_file(ENTRIES({ 0, 5, 1 }), 1);

        (void) snprintf(file.header.vm, sizeof file.header.vm, "web2");
        assert_ours(&file, "recorded from the VM web2, and this is web1");
        file.memory.source_size = 1;
        assert_other(&file, "recorded from the VM web2, and this is web1");
}

TEST(replay, knows_a_file_by_more_than_its_path) {
        struct file file = make_file(ENTRIES({ 0, 5, 1 }), 1);

        /* As it was opened: the file system, which may be silent by now, is not asked. */
        source.name = (char *) "file:/new/path";
        source.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        cr_assert(source.fd >= 0);
        memcpy(source.identity, (uint64_t[]) { 7, 8, 0, 9, 10, 0 }, sizeof source.identity);
        (void) snprintf(file.memory.source, sizeof file.memory.source, "file:/old/path");
        file.memory.device = 7;
        file.memory.inode = 8;
        file.memory.modified_ns = 9000000010;
        assert_ours(&file, NULL);
        file.memory.modified_ns++;
        assert_other(&file, "memory ram0 was taken from file:/old/path, and comes from file:/new/path here");
        cr_assert(close(source.fd) == 0);
}

TEST(replay, leaves_out_what_is_not_plugged_in) {
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct memory other = { .name = "dimm0", .size = PB_PAGE_BYTES, .n_pages = 1, .source = &source, .index = 1 };
        struct memory *const both[] = { &memory, &other };
        struct {
                struct pb_working_set_header header;
                struct pb_working_set_memory memories[2];
                struct pb_working_set_client client;
                struct pb_working_set_entry entries[2];
        } file = {
                .header = { .magic = PB_WORKING_SET_MAGIC, .version = 1, .n_memories = 2, .n_clients = 1, .n_entries = 2,
                            .size = sizeof file, .vm = "web1" },
                .memories = { { .name = "ram0", .size = N_PAGES * PB_PAGE_BYTES },
                              { .name = "dimm0", .size = PB_PAGE_BYTES } },
                .entries = { { 0, 0, 1, .memory = 1 }, { 0, 7, 1, .memory = 0 } },
        };
        const struct replay_target two = { .vm = "web1", .memories = both, .n_memories = 2 };
        struct replay *replay;

        atomic_store(&other.hidden, true);
        cr_assert_eq(replay_new(&replay, &file, sizeof file, &two, &notice, &error), 0, "%s", error);
        cr_assert(strstr(notice, "memory dimm0 is not plugged in"), "%s", notice);
        cr_assert_eq(replay->n_runs, 1);
        cr_assert_eq(replay->runs[0].memory, &memory);
        (void) replay_free(replay);
}

/* ---- files that are none ---- */

static void assert_refused(const struct file *file, uint64_t size, const char *why) {
        _cleanup_free_ char *notice = NULL, *error = NULL;
        struct replay *replay;

        cr_assert_eq(plan(&replay, file, size, &notice, &error), -EINVAL);
        cr_assert(error && strstr(error, why), "%s", error);
}

TEST(replay, refuses_pages_outside_their_memory) {
        struct file file = make_file(ENTRIES({ 0, N_PAGES - 1, 2 }), 1);

        assert_refused(&file, file_size(&file), "outside their memory");
        file = make_file(ENTRIES({ 0, UINT64_MAX, 2 }), 1);
        assert_refused(&file, file_size(&file), "outside their memory");
        file = make_file(ENTRIES({ 0, 1, 0 }), 1);
        assert_refused(&file, file_size(&file), "outside their memory");
}

TEST(replay, refuses_indices_outside_their_table) {
        struct file file = make_file(ENTRIES({ 0, 1, 1, 1, 0 }), 1);

        assert_refused(&file, file_size(&file), "does not describe");
        file = make_file(ENTRIES({ 0, 1, 1, 0, 1 }), 1);
        assert_refused(&file, file_size(&file), "does not describe");
}

TEST(replay, refuses_time_that_goes_back) {
        struct file file = make_file(ENTRIES({ 5, 1, 1 }, { 4, 2, 1 }), 2);

        assert_refused(&file, file_size(&file), "order of time");
}

TEST(replay, refuses_names_without_an_end) {
        struct file file = make_file(ENTRIES({ 0, 1, 1 }), 1);

        memset(file.memory.source, 'x', sizeof file.memory.source);
        assert_refused(&file, file_size(&file), "name without an end");
}

TEST(replay, refuses_every_shorter_file) {
        struct file file = make_file(ENTRIES({ 0, 1, 1 }, { 0, 3, 1 }), 2);

        for (uint64_t size = 0; size < file_size(&file); size++) {
                _cleanup_free_ void *exact = malloc(max_u64(size, 1)); /* so that a read past its end is seen */
                _cleanup_free_ char *notice = NULL, *error = NULL;
                struct replay *replay;

                memcpy(exact, &file, size);
                cr_assert_eq(replay_new(&replay, exact, size, &target, &notice, &error), -EINVAL);
                free(PTR_TAKE(error));
        }
}

/* Whatever a byte becomes: refused, or a plan inside the memory. */
TEST(replay, no_flipped_bit_leads_out_of_the_memory) {
        struct file whole = make_file(ENTRIES({ 0, 100, 7 }, { 9, 3000, 64 }, { 11, N_PAGES - 1, 1 }), 3);

        for (uint64_t bit = 0; bit < file_size(&whole) * 8; bit++) {
                _cleanup_free_ char *notice = NULL, *error = NULL;
                struct file file = whole;
                struct replay *replay;

                ((uint8_t *) &file)[bit / 8] ^= (uint8_t) (1u << bit % 8);
                if (plan(&replay, &file, file_size(&whole), &notice, &error) < 0)
                        continue;
                for (uint64_t i = 0; i < replay->n_runs; i++)
                        cr_assert(replay->runs[i].count > 0 && replay->runs[i].first < N_PAGES &&
                                  replay->runs[i].count <= N_PAGES - replay->runs[i].first);
                (void) replay_free(replay);
        }
}
