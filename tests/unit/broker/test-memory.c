/* SPDX-License-Identifier: MIT */
#include "broker/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/install.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "protocol/order.h"
#include "tests/lib/test.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static struct memory *new_memory(uint64_t size, uint64_t backing_size) {
        struct memory *memory = NULL;
        char *error = NULL;

        cr_assert_eq(memory_new(&memory, &(struct memory_options) { .vm = "vm", .name = "ram0", .size = size,
                                                                    .backing_size = backing_size, .epoch = 77 },
                                &error),
                     0, "%s", error);
        return memory;
}

TEST(memory, objects_have_their_seals) {
        struct memory *memory = new_memory(100 * 4096, 4096);

        cr_assert_eq(memfd_check(memory->fd, 100 * 4096, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
        cr_assert_eq(memfd_check(memory->map_fd, presence_map_size(100),
                                 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL),
                     0);
        cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory->map_fd, 0), MAP_FAILED);
        cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd_readonly, 0), MAP_FAILED);
        (void) memory_free(memory);
}

/* The flags of the mapping at `addr`, as /proc/self/smaps has them. */
static void get_vm_flags(const void *addr, char ret[static 256]) {
        FILE *smaps = fopen("/proc/self/smaps", "re");
        bool here = false;
        char line[512];

        cr_assert_not_null(smaps);
        ret[0] = 0;
        while (!ret[0] && fgets(line, sizeof line, smaps)) {
                void *from, *to;

                if (sscanf(line, "%p-%p ", &from, &to) == 2)
                        here = from == addr;
                else if (here && strncmp(line, "VmFlags:", 8) == 0)
                        (void) snprintf(ret, 256, "%.255s", line);
        }
        (void) fclose(smaps);
}

TEST(memory, is_in_no_core_dump_and_in_no_child) {
        struct memory *memory = new_memory(100 * 4096, 4096);
        char flags[256];

        get_vm_flags(memory->base, flags);
        cr_assert(strstr(flags, " dd") && strstr(flags, " dc"), "guest memory: %s", flags);
        get_vm_flags(memory->map, flags);
        cr_assert(strstr(flags, " dc"), "its map: %s", flags);
        (void) memory_free(memory);
}

TEST(memory, map_describes_itself_and_begins_absent) {
        struct memory *memory = new_memory(100 * 4096, 4096);

        cr_assert_eq(memory->map->magic, PB_MAP_MAGIC);
        cr_assert_eq(memory->map->n_pages, 100);
        cr_assert_eq(memory->map->epoch, 77);
        cr_assert_eq(memory->map->backing_size, 4096);
        cr_assert_eq(memory->map->complete, 0);
        cr_assert_eq(memory_present_mask(memory, 0), 0);
        cr_assert(!memory_is_present(memory, 0, 1));
        (void) memory_free(memory);
}

TEST(memory, presence_is_asked_over_slices) {
        struct memory *memory = new_memory(300 * 4096, 4096);

        for (unsigned page = 60; page < 260; page++)
                order_present_publish(&memory->present[page / 32], 1u << page % 32);
        cr_assert(memory_is_present(memory, 60, 200));
        cr_assert(!memory_is_present(memory, 59, 2));
        cr_assert(!memory_is_present(memory, 60, 201));
        cr_assert(memory_is_present(memory, 259, 1));
        cr_assert_eq(memory_present_mask(memory, 0), slice_mask(60, 63));
        cr_assert_eq(memory_present_mask(memory, 4), slice_mask(256, 259));
        (void) memory_free(memory);
}

TEST(memory, poison_remembers_the_last_reason) {
        struct memory *memory = new_memory(300 * 4096, 4096);

        memory_poison(memory, 1, 0x3, -EIO);
        memory_poison(memory, 1, 1ull << 63, -ETIMEDOUT);
        cr_assert_eq(memory_poison_reason(memory, 64), -EIO);
        cr_assert_eq(memory_poison_reason(memory, 127), -ETIMEDOUT);
        cr_assert_eq(memory_poison_reason(memory, 66), 0);
        cr_assert_eq(memory_poison_reason(memory, 300), 0);
        cr_assert_eq(memory_poison_reason(memory, UINT64_MAX), 0);
        cr_assert_eq(memory->pages_poisoned, 3);
        order_poison_clear(&memory->poison[2], 1);
        memory_poison(memory, 1, 0x1, -ESTALE);
        cr_assert_eq(memory_poison_reason(memory, 64), -ESTALE);
        (void) memory_free(memory);
}

/* ---- install ---- */

TEST(memory, install_copies_and_backs) {
        struct memory *memory = new_memory(100 * 4096, 4096);
        _cleanup_free_ char *buffer = malloc(64 * 4096);
        char have[4096];
        struct stat st;

        memset(buffer, 'i', 64 * 4096);
        cr_assert_eq(install_copy(memory, 36, 64, buffer), 0);
        cr_assert(pread(memory->fd, have, sizeof have, 99 * 4096) == 4096 && memcmp(have, buffer, 4096) == 0);
        cr_assert(pread(memory->fd, have, sizeof have, 35 * 4096) == 4096 && have[4095] == 0);
        cr_assert(fstat(memory->fd, &st) == 0 && st.st_blocks == 64 * 8);
        (void) memory_free(memory);
}

TEST(memory, install_zero_leaves_holes_and_wipes_what_is_there) {
        struct memory *memory = new_memory(100 * 4096, 4096);
        struct stat st;
        char have[4096];

        cr_assert(pwrite(memory->fd, "stale", 5, 7 * 4096) == 5);
        cr_assert_eq(install_zero(memory, 0, 64), 0);
        cr_assert(pread(memory->fd, have, 5, 7 * 4096) == 5 && have[0] == 0 && have[4] == 0);
        cr_assert(fstat(memory->fd, &st) == 0);
        cr_assert_eq(st.st_blocks, 8, "zeros were given memory");
        (void) memory_free(memory);
}

TEST(memory, install_zero_backs_huge_pages) {
        struct memory *memory;
        struct stat st;

        require_hugepages(1, HUGE_2M);
        memory = new_memory(HUGE_2M, HUGE_2M);
        cr_assert_eq(install_zero(memory, 3, 1), 0);
        cr_assert(fstat(memory->fd, &st) == 0);
        cr_assert_eq(st.st_blocks, HUGE_2M / 512);
        (void) memory_free(memory);
}
