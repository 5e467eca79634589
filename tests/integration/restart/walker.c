/* SPDX-License-Identifier: MIT */
/*
 * An unmodified program: it knows nothing of Pagebroker and is linked to nothing of it.
 *
 *   walker PATH SIZE IMAGE WALK
 *
 * It maps PATH, compares page after page with IMAGE as far as the file WALK (walk.h) lets it, and leaves marks; now and then it maps
 * PATH anew. In the end it looks at everything again. Exit status: 0 all right; 1 a page is wrong; 2 it could not be done.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "walk.h"

#define PAGE 4096u
#define MAPPING_PAGES 96u /* after so many pages another mapping */

static char *memory;
static size_t size;
static int memory_fd, image_fd;

static void must(int condition, const char *what) {
        if (condition)
                return;
        perror(what);
        exit(2);
}

static void *map(int fd, size_t length) {
        void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        must(p != MAP_FAILED, "mmap");
        return p;
}

static void check(unsigned page, int marked) {
        char expected[PAGE] = "";

        must(pread(image_fd, expected, PAGE, (off_t) page * PAGE) >= 0, "pread");
        if (marked)
                memset(expected, WALK_MARK, PAGE);
        if (memcmp(memory + (size_t) page * PAGE, expected, PAGE) == 0)
                return;
        fprintf(stderr, "walker: page %u is wrong%s\n", page, marked ? ": it was written" : "");
        exit(1);
}

int main(int argc, char **argv) {
        struct walk *walk;
        int walk_fd;

        if (argc != 5)
                return 2;
        size = strtoull(argv[2], NULL, 10);
        memory_fd = open(argv[1], O_RDWR | O_CLOEXEC);
        image_fd = open(argv[3], O_RDONLY | O_CLOEXEC);
        walk_fd = open(argv[4], O_RDWR | O_CLOEXEC);
        must(memory_fd >= 0 && image_fd >= 0 && walk_fd >= 0, "open");
        walk = map(walk_fd, sizeof *walk);
        memory = map(memory_fd, size);
        for (unsigned page = 0; page < size / PAGE; page++) {
                while (page >= atomic_load(&walk->until))
                        usleep(100);
                if (page % MAPPING_PAGES == MAPPING_PAGES - 1) {
                        must(munmap(memory, size) == 0, "munmap");
                        memory = map(memory_fd, size);
                        check(0, 1);
                }
                check(page, 0);
                if (page % WALK_MARK_EVERY == 0)
                        memset(memory + (size_t) page * PAGE, WALK_MARK, PAGE);
                atomic_store(&walk->pages, page + 1);
        }
        for (unsigned page = 0; page < size / PAGE; page++)
                check(page, page % WALK_MARK_EVERY == 0);
        return 0;
}
