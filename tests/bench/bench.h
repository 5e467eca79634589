/* SPDX-License-Identifier: MIT */
/* What is compared: ways to get pages of a RAM-hot image into a process that touches them. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#define BENCH_PAGE 4096u

#define CHECK(condition)                                                                     \
        do {                                                                                 \
                if (!(condition)) {                                                          \
                        fprintf(stderr, "%s:%d: %s (%m)\n", __FILE__, __LINE__, #condition); \
                        exit(1);                                                             \
                }                                                                            \
        } while (0)

/* An access: pieces of `length` bytes each at `offsets`; every page of them is touched. */
struct access {
        const uint64_t *offsets;
        unsigned n;
        uint64_t length;
};

struct setup {
        const char *image;
        uint64_t size;         /* bytes */
        uint64_t backing_size; /* 4096 or 2 MiB */
        int server_cpu;        /* where the serving process runs; -1: anywhere */
        const char *pagebrokerd;
};

struct contestant {
        const char *name;
        void (*start)(struct contestant *c, const struct setup *setup);
        void (*fetch)(struct contestant *c, const struct access *access); /* and touch */
        void (*stop)(struct contestant *c);
        uint8_t *memory; /* as the touching process sees it */
        uint64_t size;
        uint64_t window; /* bytes brought by a fault */
        pid_t server;
        void *state;
};

extern const struct contestant contestant_pagebroker, contestant_uffd_page, contestant_uffd_window, contestant_mmap;

/* In a child that is going to serve. */
void bench_pin(int cpu);
uint64_t bench_now_ns(void);
void bench_touch(const struct contestant *c, const struct access *access);
double bench_presence_test_ns(struct contestant *pagebroker);
