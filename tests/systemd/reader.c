/* SPDX-License-Identifier: MIT */
/*
 * usage: reader SOCKET IMAGE: connects as a device, reads all of guest memory, compares it with the image, and says "same".
 * With a third argument, it first reads the first half, says "half", and waits for a line on standard input.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client/pagebroker.h"

#define STEP (64u << 10)

static int compare(pb_client *client, const char *image, uint64_t from, uint64_t to) {
        for (uint64_t gpa = from; gpa < to; gpa += STEP) {
                int r = pb_ensure(client, gpa, STEP, PB_READ);

                if (r < 0) {
                        (void) printf("0x%llx: %s: %s\n", (unsigned long long) gpa, strerror(-r), pb_explain(client));
                        return r;
                }
                if (memcmp(pb_translate(client, gpa, STEP), image + gpa, STEP) != 0) {
                        (void) printf("0x%llx: other bytes than in the image\n", (unsigned long long) gpa);
                        return -1;
                }
        }
        return 0;
}

int main(int argc, char *argv[]) {
        struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .name = "reader" };
        pb_client *client = NULL;
        struct stat st;
        const char *image;
        int r, fd;

        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        fd = argc > 2 ? open(argv[2], O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0 || fstat(fd, &st) < 0)
                return 2;
        image = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (image == MAP_FAILED)
                return 2;
        r = pb_connect(&client, argv[1], &options);
        if (r < 0) {
                (void) printf("cannot connect: %s\n", strerror(-r));
                return 1;
        }
        r = argc > 3 ? compare(client, image, 0, (uint64_t) st.st_size / 2) : 0;
        if (r == 0 && argc > 3) {
                (void) puts("half");
                (void) getchar();
        }
        if (r == 0)
                r = compare(client, image, 0, (uint64_t) st.st_size);
        if (r == 0)
                (void) puts("same");
        (void) pb_disconnect(client);
        return r < 0;
}
