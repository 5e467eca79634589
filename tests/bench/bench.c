/* SPDX-License-Identifier: MIT */
/*
 * bench PAGEBROKERD OUTPUT.csv [ROUNDS]
 *
 * Every contestant lives through the whole of a configuration; in each round each has its turn, so that a drift of the
 * machine's speed meets all of them. Every access goes to pages that nobody touched before. The raw times go to
 * OUTPUT.csv; the table shows medians and what they are of pagebroker's.
 */
#include <string.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/bench/bench.h"

#define IMAGE_SIZE (768ull << 20)
#define ROUNDS_DEFAULT 10u

struct pattern {
        const char *name;
        uint64_t length;   /* bytes of a piece */
        uint64_t stride;   /* from where a piece may begin to where the next may */
        unsigned pieces;
        unsigned accesses; /* a round */
        uint64_t begin, end; /* the part of the image that it uses, bytes */
};

static const struct pattern patterns[] = {
        { "page", BENCH_PAGE, BENCH_PAGE, 1, 200, 0, 64 << 20 },
        { "range64k", 64 << 10, 64 << 10, 1, 100, 64 << 20, 256 << 20 },
        { "scatter64", BENCH_PAGE, BENCH_PAGE, 64, 15, 256 << 20, 512 << 20 },
        /* what a restored guest does first: a page here, a page there, each in a huge page of its own */
        { "sparse", BENCH_PAGE, 2 << 20, 1, 12, 512 << 20, 768 << 20 },
};

static const struct {
        const char *name;
        int client, server; /* CPU; -1: anywhere */
} pinnings[] = { { "one-cpu", 0, 0 }, { "two-cpus", 0, 1 }, { "unpinned", -1, -1 } };

static const struct contestant *const contestants[] = {
        &contestant_pagebroker,
        &contestant_uffd_page,
        &contestant_uffd_window,
        &contestant_mmap,
};
#define N_CONTESTANTS ELEMENTS(contestants)

void bench_touch(const struct contestant *c, const struct access *access) {
        for (unsigned i = 0; i < access->n; i++)
                for (uint64_t at = 0; at < access->length; at += BENCH_PAGE)
                        (void) *(volatile uint8_t *) (c->memory + access->offsets[i] + at);
}

/* The units of a pattern's part in random order; the same for every contestant. */
static uint64_t *make_order(const struct pattern *pattern, unsigned rounds) {
        uint64_t units = (pattern->end - pattern->begin) / pattern->stride;
        uint64_t *order = malloc(units * sizeof *order);

        CHECK(order && (uint64_t) pattern->pieces * pattern->accesses * rounds <= units);
        for (uint64_t i = 0; i < units; i++)
                order[i] = pattern->begin + i * pattern->stride;
        srandom(42);
        for (uint64_t i = units - 1; i > 0; i--) {
                uint64_t j = (uint64_t) random() % (i + 1), swap = order[i];

                order[i] = order[j];
                order[j] = swap;
        }
        return order;
}

static int compare(const void *a, const void *b) {
        uint64_t left = *(const uint64_t *) a, right = *(const uint64_t *) b;

        return left < right ? -1 : left > right;
}

struct figures {
        double median, mean, p99; /* microseconds */
};

static struct figures figures(uint64_t *values, size_t n) {
        size_t middle = n / 2, last_hundredth = n * 99 / 100;
        double sum = 0;

        qsort(values, n, sizeof *values, compare);
        for (size_t i = 0; i < n; i++)
                sum += (double) values[i];
        return (struct figures) {
                .median = (double) values[middle] / 1000,
                .mean = sum / (double) n / 1000,
                .p99 = (double) values[last_hundredth] / 1000,
        };
}

struct result {
        uint64_t *times; /* of all rounds */
        size_t n;
};

static void run_round(struct contestant *c, const struct pattern *pattern, const uint64_t *order, unsigned round,
                      struct result *result) {
        for (unsigned i = 0; i < pattern->accesses; i++) {
                struct access access = {
                        .offsets = order + (uint64_t) (round * pattern->accesses + i) * pattern->pieces,
                        .n = pattern->pieces,
                        .length = pattern->length,
                };
                uint64_t begin = bench_now_ns();

                c->fetch(c, &access);
                result->times[result->n++] = bench_now_ns() - begin;
        }
}

static void run_configuration(const char *backing, const struct setup *setup, const char *pinning, int client_cpu,
                              unsigned rounds, FILE *csv) {
        struct contestant running[N_CONTESTANTS];
        struct result results[N_CONTESTANTS][ELEMENTS(patterns)] = {};
        uint64_t *orders[ELEMENTS(patterns)];

        for (size_t p = 0; p < ELEMENTS(patterns); p++)
                orders[p] = make_order(&patterns[p], rounds);
        bench_pin(client_cpu);
        for (size_t c = 0; c < N_CONTESTANTS; c++) {
                running[c] = *contestants[c];
                running[c].start(&running[c], setup);
                for (size_t p = 0; p < ELEMENTS(patterns); p++) {
                        results[c][p].times = calloc((size_t) rounds * patterns[p].accesses, sizeof(uint64_t));
                        CHECK(results[c][p].times);
                }
        }
        for (unsigned round = 0; round < rounds; round++)
                for (size_t p = 0; p < ELEMENTS(patterns); p++)
                        for (size_t c = 0; c < N_CONTESTANTS; c++)
                                run_round(&running[c], &patterns[p], orders[p], round, &results[c][p]);
        for (size_t p = 0; p < ELEMENTS(patterns); p++) {
                struct figures all[N_CONTESTANTS];

                for (size_t c = 0; c < N_CONTESTANTS; c++) {
                        struct result *result = &results[c][p];

                        for (size_t i = 0; i < result->n; i++)
                                fprintf(csv, "%s,%s,%s,%s,%llu\n", backing, pinning, patterns[p].name,
                                        running[c].name, (unsigned long long) result->times[i]);
                        all[c] = figures(result->times, result->n);
                        free(result->times);
                }
                printf("%-5s %-9s %-10s", backing, pinning, patterns[p].name);
                for (size_t c = 0; c < N_CONTESTANTS; c++)
                        printf("  %8.1f %7.2fx %8.1f %8.1f", all[c].median, all[c].median / all[0].median, all[c].mean,
                               all[c].p99);
                printf("\n");
                fflush(stdout);
                free(orders[p]);
        }
        if (setup->backing_size == BENCH_PAGE && client_cpu == 0 && setup->server_cpu == 0)
                printf("      presence test: %.2f ns\n", bench_presence_test_ns(&running[0]));
        for (size_t c = 0; c < N_CONTESTANTS; c++)
                running[c].stop(&running[c]);
}

int main(int argc, char *argv[]) {
        unsigned rounds = argc > 3 ? (unsigned) atoi(argv[3]) : ROUNDS_DEFAULT;
        static const struct {
                const char *name;
                uint64_t size;
        } backings[] = { { "4K", BENCH_PAGE }, { "2M", 2 << 20 } };
        uint64_t huge_pages = (N_CONTESTANTS - 1) * IMAGE_SIZE >> 21;
        char image[64];
        FILE *csv;

        if (argc < 3 || rounds < 1 || rounds > 40) {
                fprintf(stderr, "usage: bench PAGEBROKERD OUTPUT.csv [ROUNDS]    ROUNDS: 1 to 40, default %u\n", ROUNDS_DEFAULT);
                return 2;
        }
        csv = fopen(argv[2], "we");
        CHECK(csv);
        fprintf(csv, "backing,pinning,pattern,contestant,ns\n");
        snprintf(image, sizeof image, "/var/tmp/pagebroker-bench.%d.img", (int) getpid());
        bench_make_image(image, IMAGE_SIZE);
        printf("microseconds an access: median, its ratio to pagebroker's, mean, 99th percentile\n%-26s", "");
        for (size_t c = 0; c < N_CONTESTANTS; c++)
                printf("  %35s", contestants[c]->name);
        printf("\n");
        for (size_t b = 0; b < ELEMENTS(backings); b++) {
                if (backings[b].size > BENCH_PAGE) {
                        bench_set_huge_pages(huge_pages);
                        if (bench_count_free_huge_pages() < huge_pages) {
                                printf("2M: skipped: %llu free huge pages are needed\n", (unsigned long long) huge_pages);
                                continue;
                        }
                }
                for (size_t i = 0; i < ELEMENTS(pinnings); i++) {
                        const struct setup setup = {
                                .image = image,
                                .size = IMAGE_SIZE,
                                .backing_size = backings[b].size,
                                .server_cpu = pinnings[i].server,
                                .pagebrokerd = argv[1],
                        };

                        if (pinnings[i].server > 0 && sysconf(_SC_NPROCESSORS_ONLN) < 2)
                                continue;
                        run_configuration(backings[b].name, &setup, pinnings[i].name, pinnings[i].client, rounds, csv);
                }
        }
        bench_set_huge_pages(0);
        (void) unlink(image);
        CHECK(fclose(csv) == 0);
        return 0;
}
