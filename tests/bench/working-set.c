/* SPDX-License-Identifier: MIT */
/*
 * How long a restored workload takes that does what it did before, without and with the replay of its working set: from
 * the start of the broker until the last page has been worked on. The source is nbdkit with a delay for each request,
 * $BENCH_DELAY (1ms). The workload is a linked client, or a thread under userfaultfd, that goes over scattered pages in
 * an order of its own. Numbers go to $BENCH_RAW, a line each.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/macro.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 131072u /* 512 MiB */
#define N_WANTED 3000u
#define WORK_ROUNDS 4u /* over each page: some 10 us, as much as a program does with a page */
#define ROUNDS_MAX 100u

struct mode {
        const char *name, *fill;
        bool replay;
};

static const struct mode modes[] = {
        { "plain", "--fill=off", false },
        { "replay", "--fill=off", true },
        { "fill", "--fill=on", false },
        { "fill-replay", "--fill=on", true },
};

static struct test_image image;
static struct test_nbd nbd;
static uint64_t wanted[N_WANTED];
static char file[160], record_option[192], replay_option[192];

static unsigned n_rounds(void) {
        const char *text = getenv("BENCH_ROUNDS");
        unsigned n = text ? (unsigned) strtoul(text, NULL, 10) : 11;

        cr_assert(n > 0 && n <= ROUNDS_MAX);
        return n;
}

/* Each once, in an order that has nothing to do with where they lie. */
static void choose_pages(void) {
        bool *taken = calloc(N_PAGES, sizeof *taken);
        uint64_t state = 4711;

        cr_assert(taken);
        for (unsigned i = 0; i < N_WANTED;) {
                uint64_t page = next_random(&state) % N_PAGES;

                if (taken[page])
                        continue;
                taken[page] = true;
                wanted[i++] = page;
        }
        free(taken);
}

static void begin(void) {
        static char delay[48];

        require_program("nbdkit");
        (void) snprintf(delay, sizeof delay, "rdelay=%s", getenv("BENCH_DELAY") ?: "1ms");
        test_image_make(&image, &(struct test_image_spec) { .seed = 6, .n_pages = N_PAGES });
        test_nbd_prepare(&nbd);
        TEST_NBDKIT(&nbd, "--filter=delay", "file", image.path, delay);
        choose_pages();
        (void) snprintf(file, sizeof file, "%s", test_nbd_path(&nbd, "set.pws"));
        (void) snprintf(record_option, sizeof record_option, "--working-set-record=%s", file);
        (void) snprintf(replay_option, sizeof replay_option, "--working-set-replay=%s", file);
}

static void end(void) {
        test_nbd_stop(&nbd);
        test_image_unlink(&image);
}

/* Something that needs every byte. */
static uint64_t work_on(const void *page) {
        uint64_t words[TEST_PAGE / 8], sum = 0;

        memcpy(words, page, sizeof words);
        for (unsigned round = 0; round < WORK_ROUNDS; round++)
                for (unsigned i = 0; i < ELEMENTS(words); i++)
                        sum = (sum ^ words[i]) * 0x9e3779b97f4a7c15 + round;
        return sum;
}

static uint64_t expected_sum(void) {
        uint64_t sum = 0;
        char page[TEST_PAGE];

        for (unsigned i = 0; i < N_WANTED; i++) {
                test_image_fill(&image, wanted[i], page);
                sum += work_on(page);
        }
        return sum;
}

/* ---- the workloads: 0, or 1 with a line ---- */

static int run_linked(pb_client *client, uint64_t *ret_sum) {
        for (unsigned i = 0; i < N_WANTED; i++) {
                if (pb_ensure(client, wanted[i] * TEST_PAGE, TEST_PAGE, PB_READ) < 0)
                        return 1;
                *ret_sum += work_on(pb_translate(client, wanted[i] * TEST_PAGE, TEST_PAGE));
        }
        return 0;
}

static int run_userfaultfd(pb_client *client, uint64_t *ret_sum) {
        if (pb_attach_vmm(client, NULL) < 0)
                return 1;
        for (unsigned i = 0; i < N_WANTED; i++)
                *ret_sum += work_on((const char *) get_region(client, 0).addr + wanted[i] * TEST_PAGE);
        return 0;
}

struct workload {
        const char *name;
        int (*run)(pb_client *client, uint64_t *ret_sum);
        const struct test_broker *broker;
        uint64_t sum, done_us;
};

static int run_child(void *arg) {
        struct workload *workload = arg;
        pb_client *client = child_connect(workload->broker, PB_ROLE_VMM);

        if (!client || workload->run(client, &workload->sum) != 0)
                return 1;
        workload->done_us = clock_now_us();
        return child_disconnect(client) ? 0 : 1;
}

/* Microseconds from the start of the broker. */
static uint64_t measure(struct workload *workload, const char *fill, const char *option, uint64_t expected) {
        uint64_t begin_us = clock_now_us();
        struct test_broker broker;

        TEST_BROKER_START(&broker, test_nbd_memory("ram0", &nbd, ""), fill, option);
        workload->broker = &broker;
        workload->sum = 0;
        cr_assert_eq(test_child_wait(test_child_start((uid_t) -1, run_child, workload)), 0);
        cr_assert_eq(workload->sum, expected, "the work has another result");
        test_broker_stop(&broker);
        return workload->done_us - begin_us;
}

static int compare(const void *a, const void *b) {
        const uint64_t *left = a, *right = b;

        return *left < *right ? -1 : *left > *right;
}

static void report(const char *workload, uint64_t us[ELEMENTS(modes)][ROUNDS_MAX], unsigned n) {
        const char *path = getenv("BENCH_RAW");
        FILE *raw = path ? fopen(path, "ae") : NULL;
        uint64_t medians[ELEMENTS(modes)];

        for (unsigned m = 0; m < ELEMENTS(modes); m++) {
                for (unsigned i = 0; raw && i < n; i++)
                        fprintf(raw, "%s,%s,%u,%" PRIu64 "\n", workload, modes[m].name, i, us[m][i]);
                qsort(us[m], n, sizeof us[m][0], compare);
                medians[m] = us[m][n / 2];
                printf("%-12s %-12s %2u runs: done after %7.1f ms (median; %7.1f to %7.1f)", workload, modes[m].name, n,
                       (double) medians[m] / 1000, (double) us[m][0] / 1000, (double) us[m][n - 1] / 1000);
                if (modes[m].replay)
                        printf(", %.1f times as fast", (double) medians[m - 1] / (double) medians[m]);
                printf("\n");
        }
        if (raw)
                (void) fclose(raw);
}

static void run(const char *name, int (*work)(pb_client *client, uint64_t *ret_sum)) {
        struct workload *workload =
                mmap(NULL, sizeof *workload, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t us[ELEMENTS(modes)][ROUNDS_MAX], expected;
        unsigned n = n_rounds();

        cr_assert(workload != MAP_FAILED);
        begin();
        expected = expected_sum();
        *workload = (struct workload) { .name = name, .run = work };
        (void) measure(workload, "--fill=off", record_option, expected);
        for (unsigned i = 0; i < n; i++)
                for (unsigned m = 0; m < ELEMENTS(modes); m++)
                        us[m][i] = measure(workload, modes[m].fill, modes[m].replay ? replay_option : "-q", expected);
        report(name, us, n);
        (void) munmap(workload, sizeof *workload);
        end();
}

TEST(working_set, linked_client, .timeout = 1800) {
        run("linked", run_linked);
}

TEST(working_set, userfaultfd, .timeout = 1800) {
        require_uffd();
        run("userfaultfd", run_userfaultfd);
}
