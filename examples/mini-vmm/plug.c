/* SPDX-License-Identifier: MIT */
#include "plug.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "complain.h"

#define SLOT LAYOUT_REGIONS /* behind those of the snapshot */
#define ROUNDS 2
#define WORDS_PER_PAGE (PB_PAGE_SIZE / sizeof(uint64_t))

int plug_open(struct plug *plug, const char *what, pb_client *client, struct machine *machine) {
        const char *path = strchr(what, ':') + 1;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        void *image;

        if (fd < 0 || fstat(fd, &st) < 0)
                return complain(-errno, "--plug: %s", path);
        if (st.st_size == 0 || st.st_size > GUEST_PLUG_MAX || st.st_size % PB_PAGE_SIZE != 0)
                return complain(0, "--plug: %s: must be of whole pages, and at most 1 GiB", path);
        image = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (image == MAP_FAILED)
                return complain(-errno, "--plug: %s", path);
        *plug = (struct plug) {
                .client = client,
                .machine = machine,
                .name = strndup(what, (size_t) (path - 1 - what)),
                .image = image,
                .size = (size_t) st.st_size,
        };
        return plug->name ? 0 : complain(-ENOMEM, "--plug");
}

void plug_done(struct plug *plug) {
        if (plug->image)
                (void) munmap((void *) plug->image, plug->size);
        free(plug->name);
}

/* Its regions get whatever index was free. */
static int find_region(struct plug *plug, struct region *ret) {
        struct pb_region region;

        for (unsigned i = 0; pb_get_region(plug->client, i, &region) == 0; i++)
                if (region.gpa == GUEST_PLUG && !(region.flags & PB_REGION_GONE)) {
                        *ret = (struct region) { .gpa = region.gpa, .size = region.size, .addr = region.addr };
                        plug->region = i;
                        return 0;
                }
        return complain(0, "--plug: %s was plugged in and is nowhere", plug->name);
}

/* The library maps it, and puts it under userfaultfd, before KVM hears of it: the same order as in restore.c. */
int plug_in(struct plug *plug, uint32_t *ret_pages) {
        const struct pb_memory_region where = { .gpa = GUEST_PLUG, .size = plug->size };
        struct region region;
        int r;

        *ret_pages = 0;
        if (plug->round == ROUNDS)
                return 0;
        r = pb_add_memory(plug->client, plug->name, &where, 1);
        if (r < 0)
                return complain_pagebroker(plug->client, r, "--plug: cannot plug the memory in");
        plug->memory = (unsigned) r;
        r = find_region(plug, &region);
        if (r == 0)
                r = machine_add_slot(plug->machine, SLOT, &region);
        if (r == 0)
                *ret_pages = (uint32_t) (plug->size / PB_PAGE_SIZE);
        return r;
}

/* What a word was before the guest wrote to it: the second time, the memory is zeros whatever its source has. */
static uint64_t expected_word(const struct plug *plug, size_t i) {
        return plug->round == 0 ? plug->image[i] : 0;
}

static int check(const struct plug *plug, uint64_t sum) {
        const uint64_t *words = pb_translate(plug->client, GUEST_PLUG, plug->size);
        uint64_t expected = 0;

        for (size_t i = 0; i < plug->size / sizeof *words; i++)
                expected = (expected << 1 | expected >> 63) + expected_word(plug, i);
        if (sum != expected)
                return complain(0, "--plug: the guest has found something else than what was plugged in");
        for (size_t i = 0; i < plug->size / sizeof *words; i++)
                if (words[i] != (i % WORDS_PER_PAGE == 0 ? ~expected_word(plug, i) : expected_word(plug, i)))
                        return complain(0, "--plug: word %zu is not what the guest has written", i);
        return 0;
}

/* The other way round: KVM lets go of the mapping, then we do, and then the broker may ask everybody. */
int plug_out(struct plug *plug, uint64_t sum) {
        int r = check(plug, sum);

        if (r == 0)
                r = machine_remove_slot(plug->machine, SLOT);
        if (r < 0)
                return r;
        r = pb_release_region(plug->client, plug->region);
        if (r == 0)
                r = pb_remove_memory(plug->client, plug->memory);
        if (r < 0)
                return complain_pagebroker(plug->client, r, "--plug: cannot take the memory out");
        plug->round++;
        return 0;
}
