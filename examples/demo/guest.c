/* SPDX-License-Identifier: MIT */
/*
 * What runs inside the demo's guest, before and after the snapshot. It does not know that it is restored.
 *
 *   guest MEMORY_MIB SEED
 *
 * Fills MEMORY_MIB of memory with pages whose every word follows from seed and page number, says READY, and goes on:
 * 50 times a second it reads one block of /dev/vda past its page cache and prints a line. When "verify" arrives on the
 * console it checks all of that, and prints a VERDICT for each part:
 *   memory  every word of the filled memory, and its checksum from before
 *   disk    every block of the disk's first half, read again, against the formula
 *   write   pages of that memory, not touched since the fill, written to the disk's second half and read back
 * The next line switches the machine off.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define MAGIC 0x306f6d6564427050ull /* memory.py looks for it, to find a page of ours in the snapshot */
#define TICK_MS 20
#define WRITE_PAGES 256u
#define DISK_SEED_XOR 0x6b736964u /* "disk" */

struct guest {
        uint64_t *memory;
        uint64_t n_pages;
        uint64_t seed;
        uint64_t sum;      /* of the memory when it had just been filled */
        uint64_t *buffers; /* what disk reads land in; filled before, so that it is memory like any other */
        uint64_t n_buffers;
        uint64_t n_blocks; /* half of the disk */
        int disk;
};

__attribute__((noreturn)) static void die(const char *what) {
        printf("VERDICT guest FAILED %s: %s\n", what, strerror(errno));
        exit(1);
}

static uint64_t mix(uint64_t x) {
        x ^= x >> 30;
        x *= 0xbf58476d1ce4e5b9ull;
        x ^= x >> 27;
        x *= 0x94d049bb133111ebull;
        return x ^ x >> 31;
}

/* Words 0 and 1 name the page; the rest is a sequence that starts at its number, cheap to make and to check. */
static void page_fill(uint64_t *page, uint64_t seed, uint64_t index) {
        uint64_t x = mix(seed ^ index);

        page[0] = MAGIC ^ seed;
        page[1] = index;
        for (unsigned i = 2; i < WORDS; i++)
                page[i] = x = x * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
}

static int page_check(const uint64_t *page, uint64_t seed, uint64_t index) {
        uint64_t x = mix(seed ^ index), wrong = (page[0] ^ MAGIC ^ seed) | (page[1] ^ index);

        for (unsigned i = 2; i < WORDS; i++) {
                x = x * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
                wrong |= page[i] ^ x;
        }
        return wrong == 0;
}

static uint64_t memory_sum(const uint64_t *memory, uint64_t n_pages) {
        uint64_t sum = 0;

        for (uint64_t i = 0; i < n_pages * WORDS; i++)
                sum = (sum << 1 | sum >> 63) ^ memory[i];
        return sum;
}

static uint64_t *memory_new(uint64_t n_pages) {
        void *p = mmap(NULL, n_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
                die("mmap");
        return p;
}

/* O_DIRECT: the block comes from the device, not from the guest's page cache. */
static int block_read_is_right(struct guest *guest, uint64_t block, uint64_t *buffer) {
        if (pread(guest->disk, buffer, PAGE, (off_t) (block * PAGE)) != PAGE)
                return 0;
        return page_check(buffer, guest->seed ^ DISK_SEED_XOR, block);
}

static void setup_disk(struct guest *guest) {
        uint64_t size;

        guest->disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
        if (guest->disk < 0 || ioctl(guest->disk, BLKGETSIZE64, &size) < 0)
                die("/dev/vda");
        guest->n_blocks = size / PAGE / 2;
        for (uint64_t i = 0; i < guest->n_blocks; i++) {
                uint64_t *buffer = guest->buffers + i % guest->n_buffers * WORDS;

                page_fill(buffer, guest->seed ^ DISK_SEED_XOR, i);
                if (pwrite(guest->disk, buffer, PAGE, (off_t) (i * PAGE)) != PAGE)
                        die("writing /dev/vda");
        }
        if (fsync(guest->disk) < 0)
                die("fsync /dev/vda");
}

static void verify_disk(struct guest *guest) {
        uint64_t wrong = 0;

        for (uint64_t i = 0; i < guest->n_blocks; i++)
                wrong += !block_read_is_right(guest, i, guest->buffers + i % guest->n_buffers * WORDS);
        if (wrong)
                printf("VERDICT disk MISMATCH %" PRIu64 " of %" PRIu64 " blocks\n", wrong, guest->n_blocks);
        else
                printf("VERDICT disk ok %" PRIu64 " blocks\n", guest->n_blocks);
}

/* The device is the first to touch these pages after a restore: the last ones, which nothing checks before. */
static void verify_write(struct guest *guest) {
        uint64_t n = WRITE_PAGES < guest->n_blocks ? WRITE_PAGES : guest->n_blocks;
        uint64_t first = guest->n_pages - n, wrong = 0;

        for (uint64_t i = 0; i < n; i++)
                if (pwrite(guest->disk, guest->memory + (first + i) * WORDS, PAGE,
                           (off_t) ((guest->n_blocks + i) * PAGE)) != PAGE)
                        wrong++;
        (void) fsync(guest->disk);
        for (uint64_t i = 0; i < n; i++) {
                uint64_t *buffer = guest->buffers + i % guest->n_buffers * WORDS;

                if (pread(guest->disk, buffer, PAGE, (off_t) ((guest->n_blocks + i) * PAGE)) != PAGE ||
                    !page_check(buffer, guest->seed, first + i))
                        wrong++;
        }
        if (wrong)
                printf("VERDICT write MISMATCH %" PRIu64 " of %" PRIu64 " pages\n", wrong, n);
        else
                printf("VERDICT write ok %" PRIu64 " pages\n", n);
}

static void verify_memory(struct guest *guest) {
        uint64_t wrong = 0, first = 0, sum;

        for (uint64_t i = 0; i < guest->n_pages; i++)
                if (!page_check(guest->memory + i * WORDS, guest->seed, i) && wrong++ == 0)
                        first = i;
        sum = memory_sum(guest->memory, guest->n_pages);
        if (wrong || sum != guest->sum)
                printf("VERDICT memory MISMATCH %" PRIu64 " of %" PRIu64 " pages, first %" PRIu64 ", sum %016" PRIx64
                       " instead of %016" PRIx64 "\n",
                       wrong, guest->n_pages, first, sum, guest->sum);
        else
                printf("VERDICT memory ok %016" PRIx64 "\n", sum);
}

static int line_has_come(void) {
        struct pollfd poll_fd = { .fd = STDIN_FILENO, .events = POLLIN };
        char line[64];

        if (poll(&poll_fd, 1, TICK_MS) <= 0)
                return 0;
        return read(STDIN_FILENO, line, sizeof line) > 0;
}

static void setup_console(void) {
        struct termios termios;

        setvbuf(stdout, NULL, _IOLBF, 0);
        if (tcgetattr(STDIN_FILENO, &termios) == 0) {
                termios.c_lflag &= (tcflag_t) ~ECHO;
                (void) tcsetattr(STDIN_FILENO, TCSANOW, &termios);
        }
}

int main(int argc, char **argv) {
        struct guest guest = { .n_buffers = 1024 };

        setup_console();
        if (argc != 3)
                return 2;
        guest.n_pages = strtoull(argv[1], NULL, 0) * (1u << 20) / PAGE;
        guest.seed = strtoull(argv[2], NULL, 0);
        guest.memory = memory_new(guest.n_pages);
        guest.buffers = memory_new(guest.n_buffers);
        setup_disk(&guest);
        for (uint64_t i = 0; i < guest.n_pages; i++)
                page_fill(guest.memory + i * WORDS, guest.seed, i);
        guest.sum = memory_sum(guest.memory, guest.n_pages);
        printf("READY sum %016" PRIx64 " pages %" PRIu64 " blocks %" PRIu64 "\n", guest.sum, guest.n_pages,
               guest.n_blocks);
        for (uint64_t tick = 0; !line_has_come(); tick++) {
                /* From the middle on: the first buffers lie beside pages that the guest's kernel is busy with. */
                uint64_t *buffer = guest.buffers + (guest.n_buffers / 2 + tick) % guest.n_buffers * WORDS;
                int right = block_read_is_right(&guest, tick % guest.n_blocks, buffer);

                printf("COUNT %" PRIu64 " block %s\n", tick, right ? "ok" : "WRONG");
        }
        verify_write(&guest);
        verify_disk(&guest);
        verify_memory(&guest);
        printf("DONE\n");
        /* Its balloon may still be at work: the machine stays until it is told to go, or stopped. */
        while (!line_has_come())
                ;
        (void) reboot(RB_POWER_OFF);
        return 0;
}
