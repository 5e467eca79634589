/* SPDX-License-Identifier: MIT */
/* A linked client of the real broker. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "tests/bench/bench.h"

static void start(struct contestant *c, const struct setup *setup) {
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .name = "bench" };
        char path[64], memory[300];
        struct pb_region region;
        pb_client *client;

        snprintf(path, sizeof path, "/tmp/pagebroker-bench.%d", (int) getpid());
        snprintf(memory, sizeof memory, "--memory=ram,source=file:%s%s", setup->image,
                 setup->backing_size > BENCH_PAGE ? ",huge=2M" : "");
        c->server = bench_start_broker(setup->pagebrokerd, path, memory, setup->server_cpu);
        CHECK(pb_connect(&client, path, &options) == 0);
        CHECK(pb_get_region(client, 0, &region) == 0);
        c->state = client;
        c->memory = region.addr;
        c->size = region.size;
}

static void fetch(struct contestant *c, const struct access *access) {
        struct pb_range ranges[64];

        if (access->n == 1)
                CHECK(pb_ensure(c->state, access->offsets[0], access->length, PB_READ) == 0);
        else {
                for (unsigned i = 0; i < access->n; i++)
                        ranges[i] = (struct pb_range) {
                                .gpa = access->offsets[i],
                                .len = access->length,
                                .intent = PB_READ,
                        };
                CHECK(pb_ensurev(c->state, ranges, access->n) == 0);
        }
        bench_touch(c, access);
}

static void stop(struct contestant *c) {
        (void) pb_disconnect(c->state);
        (void) kill(c->server, SIGTERM);
        (void) waitpid(c->server, NULL, 0);
}

double bench_presence_test_ns(struct contestant *c) {
        enum { ROUNDS = 20000000 };
        pb_client *client = c->state;
        uint64_t begin, sum = 0;

        CHECK(pb_ensure(client, 0, 1 << 20, PB_READ) == 0);
        begin = bench_now_ns();
        for (uint64_t i = 0; i < ROUNDS; i++)
                sum += pb_is_present(client, (i * BENCH_PAGE) & ((1 << 20) - 1), 64);
        CHECK(sum == ROUNDS);
        return (double) (bench_now_ns() - begin) / ROUNDS;
}

const struct contestant contestant_pagebroker = {
        .name = "pagebroker",
        .start = start,
        .fetch = fetch,
        .stop = stop,
};
