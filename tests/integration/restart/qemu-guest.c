/* SPDX-License-Identifier: MIT */
/*
 * A guest without an operating system, for QEMU's -kernel (Multiboot 1; 32 bits, no paging). It knows nothing of Pagebroker.
 *
 * It fills as many pages as its command line says, each with words of its own, and says 'R' on the serial line; then it does
 * what it is told there, and says '.' after it, or 'X' and ends if a byte is not what it must be:
 *   's'  looks at the next STEP pages, and writes into some of them; into others QEMU writes, by its fw_cfg device
 *   'c'  looks at all pages again
 */
#include <stdint.h>

#include "qemu-guest.h"

#define COM1 0x3f8u
#define COM_LSR 5u /* line status: 1: there is a byte; 0x20: there is room for one */
#define FW_CFG_DMA 0x514u
#define FW_CFG_DMA_ERROR 1u
#define FW_CFG_DMA_READ 2u
#define FW_CFG_DMA_SELECT 8u /* the item in the upper half; 0 is the signature "QEMU" */
#define WORDS (QEMU_GUEST_PAGE / 4)

struct multiboot_info {
        uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
};

struct fw_cfg_access {
        uint32_t control, length, address_high, address_low; /* big-endian */
};

void guest_main(const struct multiboot_info *info);

__asm__(".pushsection .multiboot, \"a\"\n"
        ".align 4\n"
        ".long 0x1badb002, 0, -0x1badb002\n"
        ".popsection\n"
        ".pushsection .text\n"
        ".globl guest_start\n"
        "guest_start:\n"
        "mov $guest_stack_end, %esp\n"
        "push %ebx\n"
        "call guest_main\n"
        "1: cli\n"
        "hlt\n"
        "jmp 1b\n"
        ".popsection\n"
        ".pushsection .bss\n"
        ".align 16\n"
        ".skip 16384\n"
        "guest_stack_end:\n"
        ".popsection\n");

static void out8(uint16_t port, uint8_t value) {
        __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port) {
        uint8_t value;

        __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static void out32(uint16_t port, uint32_t value) {
        __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static void say(char c) {
        while (!(in8(COM1 + COM_LSR) & 0x20))
                ;
        out8(COM1, (uint8_t) c);
}

static char listen(void) {
        while (!(in8(COM1 + COM_LSR) & 1))
                ;
        return (char) in8(COM1);
}

static volatile uint32_t *page_at(uint32_t page) {
        return (volatile uint32_t *) (QEMU_GUEST_FIRST + page * QEMU_GUEST_PAGE);
}

static uint32_t word_of(uint32_t page, uint32_t i, uint32_t generation) {
        return (page * WORDS + i + generation * 0x10000001u) * 0x9e3779b1u;
}

static void page_fill(uint32_t page, uint32_t generation) {
        volatile uint32_t *words = page_at(page);

        for (uint32_t i = 0; i < WORDS; i++)
                words[i] = word_of(page, i, generation);
}

/* The page's last word is QEMU's doing in some. */
static int page_is_right(uint32_t page, uint32_t generation, int by_device) {
        volatile uint32_t *words = page_at(page);

        for (uint32_t i = 0; i < WORDS - 1; i++)
                if (words[i] != word_of(page, i, generation))
                        return 0;
        return words[WORDS - 1] == (by_device ? 0x554d4551u /* "QEMU" */ : word_of(page, WORDS - 1, generation));
}

static int device_write(uint32_t page) {
        static volatile struct fw_cfg_access access;

        access.length = __builtin_bswap32(4);
        access.address_high = 0;
        access.address_low = __builtin_bswap32((uint32_t) (uintptr_t) &page_at(page)[WORDS - 1]);
        access.control = __builtin_bswap32(FW_CFG_DMA_READ | FW_CFG_DMA_SELECT);
        out32(FW_CFG_DMA, 0);
        out32(FW_CFG_DMA + 4, __builtin_bswap32((uint32_t) (uintptr_t) &access));
        while (access.control & ~__builtin_bswap32(FW_CFG_DMA_ERROR))
                ;
        return access.control == 0;
}

static int is_written(uint32_t page) {
        return page % 3 == 0;
}

static int is_device_written(uint32_t page) {
        return page % 8 == 1 && !is_written(page);
}

/* The device is the first to touch its pages; before the guest writes to its own, it looks at them. */
static int step(uint32_t first, uint32_t end) {
        for (uint32_t page = first; page < end; page++) {
                int by_device = is_device_written(page);

                if (by_device && !device_write(page))
                        return 0;
                if (!page_is_right(page, 0, by_device))
                        return 0;
                if (is_written(page))
                        page_fill(page, 1);
        }
        return 1;
}

static int check(uint32_t end) {
        for (uint32_t page = 0; page < end; page++)
                if (!page_is_right(page, (uint32_t) is_written(page), is_device_written(page)))
                        return 0;
        return 1;
}

/* QEMU puts the name of the file first. */
static uint32_t last_number(const char *text) {
        uint32_t n = 0;

        for (; *text; text++)
                n = *text >= '0' && *text <= '9' ? n * 10 + (uint32_t) (*text - '0') : 0;
        return n;
}

void guest_main(const struct multiboot_info *info) {
        uint32_t n_pages = last_number((const char *) (uintptr_t) info->cmdline), done = 0;

        for (uint32_t page = 0; page < n_pages; page++)
                page_fill(page, 0);
        say('R');
        for (int right = 1; right;) {
                char order = listen();

                if (order == 's' && done + QEMU_GUEST_STEP <= n_pages) {
                        right = step(done, done + QEMU_GUEST_STEP);
                        done += QEMU_GUEST_STEP;
                } else if (order == 'c')
                        right = check(done);
                else
                        right = 0;
                say(right ? '.' : 'X');
        }
}
