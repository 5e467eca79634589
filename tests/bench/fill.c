/* SPDX-License-Identifier: MIT */
/*
 * bench-fill PAGEBROKERD OUTPUT.csv [ROUNDS [SOURCE]]
 *
 * How long the background fill takes for a whole image, and plain copies of the same source into the same kind of memory; and how
 * long a linked client waits for a page at random while nothing else goes on, and during the fill. In each round each has
 * its turn. Every run goes into fresh memory.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/macro.h"
#include "tests/bench/fill.h"

#define IMAGE_SIZE (512ull << 20)
#define ROUNDS_DEFAULT 7u
#define ROUNDS_MAX 50u
#define FAULTS_MAX 60u /* of a run */
#define COPIES_MAX 4u

enum {
        FILLED,
        QUIET,
        DURING,
        COPIED
}; /* kinds of numbers; those of copies follow */
#define N_KINDS (COPIED + COPIES_MAX)

struct numbers {
        uint64_t *ns;
        size_t n;
};

struct cell {
        const struct fill_source *source;
        const char *backing;
        uint64_t backing_size;
        const struct fill_copy *copies[COPIES_MAX];
        unsigned n_copies;
        struct numbers numbers[N_KINDS];
};

static const char *pagebrokerd;
static FILE *csv;

static int compare(const void *a, const void *b) {
        uint64_t left = *(const uint64_t *) a, right = *(const uint64_t *) b;

        return left < right ? -1 : left > right;
}

static const char *kind_name(const struct cell *cell, unsigned kind) {
        static const char *const names[] = { [FILLED] = "fill", [QUIET] = "fault-quiet", [DURING] = "fault-filling" };

        return kind < COPIED ? names[kind] : cell->copies[kind - COPIED]->name;
}

static void note(struct cell *cell, unsigned kind, uint64_t ns) {
        struct numbers *numbers = &cell->numbers[kind];

        numbers->ns[numbers->n++] = ns;
        fprintf(csv, "%s,%s,%s,%llu\n", cell->source->name, cell->backing, kind_name(cell, kind),
                (unsigned long long) ns);
}

/* A part of the numbers, from the smallest. Microseconds. */
static double quantile(struct numbers *numbers, double part) {
        if (numbers->n == 0)
                return 0;
        qsort(numbers->ns, numbers->n, sizeof numbers->ns[0], compare);
        return (double) numbers->ns[min_u64((uint64_t) ((double) numbers->n * part), numbers->n - 1)] / 1000;
}

static void prepare(const struct fill_source *source) {
        int fd;

        if (!source->cold)
                return;
        fd = open(source->path, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
        (void) close(fd);
}

/* ---- the broker's ---- */

struct broker {
        pid_t pid;
        pb_client *client;
        uint8_t *memory;
};

static void start(struct broker *broker, const struct cell *cell) {
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_VMM, .name = "bench" };
        char path[64], memory[300];
        struct pb_region region;

        snprintf(path, sizeof path, "/tmp/pagebroker-bench-fill.%d", (int) getpid());
        snprintf(memory, sizeof memory, "--memory=ram,source=%s%s", cell->source->address,
                 cell->backing_size > BENCH_PAGE ? ",huge=2M" : "");
        prepare(cell->source);
        broker->pid = bench_start_broker(pagebrokerd, path, memory, -1);
        CHECK(pb_connect(&broker->client, path, &options) == 0);
        CHECK(pb_get_region(broker->client, 0, &region) == 0 && region.size == IMAGE_SIZE);
        broker->memory = region.addr;
}

static void stop(struct broker *broker) {
        (void) pb_disconnect(broker->client);
        (void) kill(broker->pid, SIGTERM);
        (void) waitpid(broker->pid, NULL, 0);
}

/* Looks every half a millisecond, at what has not been there yet. */
static void wait_complete(pb_client *client) {
        for (uint64_t at = 0; at < IMAGE_SIZE; at += BENCH_PAGE)
                while (!pb_is_present(client, at, BENCH_PAGE))
                        (void) usleep(500);
}

static void assert_same(const struct fill_source *source, const uint8_t *memory) {
        int fd = open(source->path, O_RDONLY | O_CLOEXEC);
        uint8_t *image = mmap(NULL, IMAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

        CHECK(fd >= 0 && image != MAP_FAILED && memcmp(image, memory, IMAGE_SIZE) == 0);
        (void) munmap(image, IMAGE_SIZE);
        (void) close(fd);
}

static void run_fill(struct cell *cell, bool check) {
        struct broker broker;
        uint64_t begin_ns;

        start(&broker, cell);
        begin_ns = bench_now_ns();
        CHECK(pb_set_fill(broker.client, true) == 0);
        wait_complete(broker.client);
        note(cell, FILLED, bench_now_ns() - begin_ns);
        if (check)
                assert_same(cell->source, broker.memory);
        stop(&broker);
}

/* Pages of the last quarter, which the fill reaches last, a millisecond after one another. */
static void run_faults(struct cell *cell, unsigned kind) {
        struct broker broker;

        start(&broker, cell);
        if (kind == DURING)
                CHECK(pb_set_fill(broker.client, true) == 0);
        for (unsigned i = 0; i < FAULTS_MAX; i++) {
                uint64_t page = (IMAGE_SIZE - IMAGE_SIZE / 4) / BENCH_PAGE +
                                (uint64_t) random() % (IMAGE_SIZE / 4 / BENCH_PAGE);
                uint64_t begin_ns;

                (void) usleep(1000);
                if (pb_is_present(broker.client, IMAGE_SIZE - IMAGE_SIZE / 4 - BENCH_PAGE, BENCH_PAGE))
                        break; /* it is nearly over */
                if (pb_is_present(broker.client, page * BENCH_PAGE, BENCH_PAGE))
                        continue;
                begin_ns = bench_now_ns();
                CHECK(pb_ensure(broker.client, page * BENCH_PAGE, BENCH_PAGE, PB_READ) == 0);
                note(cell, kind, bench_now_ns() - begin_ns);
        }
        stop(&broker);
}

static void run_copy(struct cell *cell, unsigned i, bool check) {
        uint8_t *memory = fill_memory_new(IMAGE_SIZE, cell->backing_size);
        uint64_t begin_ns;

        prepare(cell->source);
        begin_ns = bench_now_ns();
        cell->copies[i]->run(cell->source, memory, IMAGE_SIZE, cell->backing_size);
        note(cell, COPIED + i, bench_now_ns() - begin_ns);
        if (check)
                assert_same(cell->source, memory);
        (void) munmap(memory, IMAGE_SIZE);
}

/* ---- sources ---- */

static pid_t start_nbdkit(const char *socket, const char *image, const char *delay) {
        char file[128];
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                snprintf(file, sizeof file, "file=%s", image);
                execlp("nbdkit", "nbdkit", "--foreground", "--exit-with-parent", "--threads=64", "--unix", socket,
                       "--readonly", delay ? "--filter=delay" : "file", delay ? "file" : file, delay ? file : NULL,
                       delay, (char *) NULL);
                _exit(127);
        }
        for (unsigned i = 0; i < 1000; i++) {
                if (access(socket, F_OK) == 0)
                        return pid;
                if (waitpid(pid, NULL, WNOHANG) == pid)
                        return 0;
                (void) usleep(10000);
        }
        CHECK(!"nbdkit made no socket");
        return 0;
}

static void nbd_source(struct fill_source *source, const char *name, const char *image, const char *delay) {
        char socket[80];

        *source = (struct fill_source) { .name = name };
        snprintf(source->path, sizeof source->path, "%s", image);
        snprintf(socket, sizeof socket, "/tmp/pagebroker-bench-%s.%d", name, (int) getpid());
        snprintf(source->uri, sizeof source->uri, "nbd+unix:///?socket=%s", socket);
        snprintf(source->address, sizeof source->address, "nbd:%s", source->uri);
        (void) unlink(socket);
        source->server = start_nbdkit(socket, image, delay);
        if (source->server == 0)
                source->name = NULL;
}

static void stop_source(struct fill_source *source) {
        if (source->server <= 0)
                return;
        (void) kill(source->server, SIGTERM);
        (void) waitpid(source->server, NULL, 0);
        (void) unlink(strstr(source->uri, "socket=") + strlen("socket="));
}

/* ---- all ---- */

/* Memory that this machine has never used may cost much more at its first touch, in a virtual machine: not who comes first
 * shall pay for that. */
static void warm_up(uint64_t backing_size) {
        uint8_t *memory = fill_memory_new(IMAGE_SIZE, backing_size), *more;

        memset(memory, 1, IMAGE_SIZE);
        if (backing_size == BENCH_PAGE) {
                more = fill_memory_new(IMAGE_SIZE, backing_size);
                memset(more, 1, IMAGE_SIZE);
                (void) munmap(more, IMAGE_SIZE);
        }
        (void) munmap(memory, IMAGE_SIZE);
}

static void run_one(struct cell *cell, unsigned which, bool check) {
        if (which == 0)
                run_fill(cell, check);
        else
                run_copy(cell, which - 1, check);
}

static void run_cell(struct cell *cell, unsigned rounds) {
        double fill, best = 0;
        const char *best_name = "";

        for (unsigned i = 0; i < n_fill_copies; i++)
                if (fill_copies[i].nbd == (cell->source->uri[0] != 0))
                        cell->copies[cell->n_copies++] = &fill_copies[i];
        for (unsigned kind = 0; kind < N_KINDS; kind++)
                CHECK((cell->numbers[kind].ns = calloc(rounds * FAULTS_MAX, sizeof(uint64_t))));
        warm_up(cell->backing_size);
        for (unsigned round = 0; round < rounds; round++) {
                /* To and fro: who comes after whom is not always the same. */
                for (unsigned i = 0; i <= cell->n_copies; i++)
                        run_one(cell, round % 2 ? cell->n_copies - i : i, round == 0);
                run_faults(cell, QUIET);
                run_faults(cell, DURING);
        }
        fill = quantile(&cell->numbers[FILLED], 0.5);
        for (unsigned i = 0; i < cell->n_copies; i++) {
                double copy = quantile(&cell->numbers[COPIED + i], 0.5);

                if (best > 0 && copy >= best)
                        continue;
                best = copy;
                best_name = cell->copies[i]->name;
        }
        printf("%-10s %-4s  %8.0f  %8.0f %-7s %6.0f %%   %8.1f %8.1f   %8.1f %8.1f  %4zu\n", cell->source->name,
               cell->backing, IMAGE_SIZE / 1048576.0 / fill * 1e6, IMAGE_SIZE / 1048576.0 / best * 1e6, best_name,
               100 * best / fill, quantile(&cell->numbers[QUIET], 0.5), quantile(&cell->numbers[QUIET], 0.99),
               quantile(&cell->numbers[DURING], 0.5), quantile(&cell->numbers[DURING], 0.99), cell->numbers[DURING].n);
        (void) fflush(stdout);
        for (unsigned kind = 0; kind < N_KINDS; kind++)
                free(cell->numbers[kind].ns);
}

int main(int argc, char *argv[]) {
        unsigned rounds = argc > 3 ? (unsigned) atoi(argv[3]) : ROUNDS_DEFAULT;
        struct fill_source sources[4] = { { .name = "file-hot" }, { .name = "file-cold", .cold = 1 } };
        static const struct {
                const char *name;
                uint64_t size;
        } backings[] = { { "4K", BENCH_PAGE }, { "2M", 2 << 20 } };
        char image[64];

        if (argc < 3 || rounds < 1 || rounds > ROUNDS_MAX) {
                fprintf(stderr,
                        "usage: bench-fill PAGEBROKERD OUTPUT.csv [ROUNDS [SOURCE]]    ROUNDS: 1 to %u, default %u\n",
                        ROUNDS_MAX, ROUNDS_DEFAULT);
                return 2;
        }
        pagebrokerd = argv[1];
        csv = fopen(argv[2], "we");
        CHECK(csv);
        fprintf(csv, "source,backing,what,ns\n");
        snprintf(image, sizeof image, "/var/tmp/pagebroker-bench-fill.%d.img", (int) getpid());
        bench_make_image(image, IMAGE_SIZE);
        for (unsigned i = 0; i < 2; i++) {
                snprintf(sources[i].path, sizeof sources[i].path, "%s", image);
                snprintf(sources[i].address, sizeof sources[i].address, "file:%s", image);
        }
        nbd_source(&sources[2], "nbd", image, NULL);
        nbd_source(&sources[3], "nbd-1ms", image, "rdelay=1ms");
        printf("%-15s  %8s  %8s %-7s %8s   %17s   %23s\n", "", "fill", "copy", "(best)", "of it", "fault, quiet",
               "during the fill");
        printf("%-15s  %8s  %8s %-7s %8s   %8s %8s   %8s %8s  %4s\n", "", "MiB/s", "MiB/s", "", "", "median", "p99 us",
               "median", "p99 us", "n");
        for (size_t s = 0; s < ELEMENTS(sources); s++)
                for (size_t b = 0; b < ELEMENTS(backings); b++) {
                        struct cell cell = { &sources[s], backings[b].name, backings[b].size, {}, 0, {} };

                        if (!sources[s].name || (argc > 4 && strcmp(argv[4], sources[s].name) != 0))
                                continue;
                        bench_set_huge_pages(backings[b].size > BENCH_PAGE ? IMAGE_SIZE >> 21 : 0);
                        if (backings[b].size > BENCH_PAGE && bench_count_free_huge_pages() < IMAGE_SIZE >> 21) {
                                printf("%s 2M: skipped: %llu free huge pages are needed\n", sources[s].name,
                                       IMAGE_SIZE >> 21);
                                continue;
                        }
                        run_cell(&cell, rounds);
                }
        bench_set_huge_pages(0);
        for (size_t s = 0; s < ELEMENTS(sources); s++)
                stop_source(&sources[s]);
        (void) unlink(image);
        CHECK(fclose(csv) == 0);
        return 0;
}
