/* SPDX-License-Identifier: MIT */
/* What is compared: ways to get pages of a RAM-hot image into a process that touches them. */
#pragma once

#include <stddef.h>
#include <stdbool.h>
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
/* Random bytes, on disk. */
void bench_make_image(const char *path, uint64_t size);
/* Without fill. `memory` is its option, `path` that of its socket; it dies with the calling process. */
pid_t bench_start_broker(const char *pagebrokerd, const char *path, const char *memory, int cpu);
void bench_set_huge_pages(uint64_t n); /* of 2 MiB, beside those that were there before */
uint64_t bench_count_free_huge_pages(void);
void bench_touch(const struct contestant *c, const struct access *access);
double bench_presence_test_ns(struct contestant *pagebroker);
