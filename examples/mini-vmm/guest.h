/* SPDX-License-Identifier: MIT */
/* What the guest program (guest.S) and the VMM have agreed on. Read by the assembler too: macros only up here. */
#pragma once

/* Where things lie in guest memory. The pages of the pattern begin behind the page tables. */
#define GUEST_CODE 0x1000
#define GUEST_PARAMS 0x2000
#define GUEST_CLOCK 0x3000 /* kvm-clock's structure, amid a page of the guest's own */
#define GUEST_TABLES 0x10000

/* Where memory goes on behind the hole for devices, as on a PC. */
#define GUEST_HIGH 0x100000000

/* Where memory appears that is plugged in while the guest runs: in the hole. */
#define GUEST_PLUG 0x80000000
#define GUEST_PLUG_MAX 0x40000000

/* Events: the guest writes to one of these ports; what it has to say is in its registers. */
#define PORT_SNAPSHOT 0xe0
#define PORT_ALIVE 0xe1
#define PORT_PROGRESS 0xe2
#define PORT_MISMATCH 0xe3 /* rdi: address, rax: expected, rdx: found */
#define PORT_DONE 0xe4     /* rbx: mismatches */
#define PORT_SUM 0xe5      /* rax: of the memory that was plugged in; the guest does not touch it any more */

/* Questions: the guest reads 32 bits from one of these after it has been restored. */
#define PORT_INDEX 0xe8      /* which vCPU am I? */
#define PORT_MULTIPLIER 0xec /* odd: the order in which pages are looked at; 1: ascending */
#define PORT_WHOLE 0xf0      /* 1: look at every word of a page, 0: at four of them */
#define PORT_PLUGGED 0xf4    /* how many pages have been plugged in? 0: no more will be */

/* A page is 512 words of 64 bits: WORDS of its value, then one for the mark of each vCPU. */
#define PAGE_WORDS 504
#define PAGE_MARKS 8
#define PAGE_MULTIPLIER 0x9e3779b97f4a7c15 /* 2^64 divided by the golden ratio, Knuth's hash */

#define CLOCK_OFFSET 512
#define CLOCK_WORDS 4
#define CLOCK_FILL 0x0ddba11c10c4f111

/* Offsets in GUEST_PARAMS. */
#define PARAM_FIRST_PAGE 0
#define PARAM_N_PAGES 8
#define PARAM_LOW_PAGES 16
#define PARAM_HIGH_SHIFT 24
#define PARAM_SEED 32
#define PARAM_STRIDE_MASK 40
#define PARAM_ORDER_MASK 48

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

#include "common/macro.h"

struct guest_params {
        uint64_t first_page; /* of the pattern */
        uint64_t n_pages;    /* of memory; pages are counted without the hole */
        uint64_t low_pages;  /* pages below the hole */
        uint64_t high_shift; /* added to the address of a page behind it */
        uint64_t seed;
        uint64_t stride_mask; /* page n carries the pattern if n & stride_mask is 0, else zeros */
        uint64_t order_mask;  /* the smallest 2^k - 1 that is not below n_pages - 1 */
};
static_assert(offsetof(struct guest_params, first_page) == PARAM_FIRST_PAGE, "as guest.S reads it");
static_assert(offsetof(struct guest_params, n_pages) == PARAM_N_PAGES, "as guest.S reads it");
static_assert(offsetof(struct guest_params, low_pages) == PARAM_LOW_PAGES, "as guest.S reads it");
static_assert(offsetof(struct guest_params, high_shift) == PARAM_HIGH_SHIFT, "as guest.S reads it");
static_assert(offsetof(struct guest_params, seed) == PARAM_SEED, "as guest.S reads it");
static_assert(offsetof(struct guest_params, stride_mask) == PARAM_STRIDE_MASK, "as guest.S reads it");
static_assert(offsetof(struct guest_params, order_mask) == PARAM_ORDER_MASK, "as guest.S reads it");

/* The program: position-independent, to be copied to GUEST_CODE and entered at its first byte in long mode. */
extern const unsigned char guest_begin[], guest_end[];

#endif
