/* SPDX-License-Identifier: MIT */
/*
 * Several linked clients that read and write all the time, while brokers die at whatever moment that is: over all ways to
 * read, with cold reads on their way, with a slow server. No call fails, every byte is right, also those written since.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "tests/integration/basic/support.h"
#include "tests/integration/restart/kill.h"
#include "tests/lib/gate.h"
#include "tests/lib/nbd.h"

#define N_PAGES 8192u
#define LOADS 4u
#define OWN 256u /* pages that one load writes */

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_image(void) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 351, .n_pages = N_PAGES });
}

static void start(struct test_broker *broker, const char *memory, const char *io) {
        test_broker_start(broker, &(struct test_broker_options) {
                                          .supervised = true,
                                          .args = (const char *const[]) { memory, "--fill=off", io, NULL },
                                  });
}

static bool is_filled(const char *memory, uint64_t page, char value) {
        for (uint64_t i = page * TEST_PAGE; i < (page + 1) * TEST_PAGE; i++)
                if (memory[i] != value)
                        return false;
        return true;
}

/* ---- random kills ---- */

struct load {
        const struct test_broker *broker;
        unsigned index;
        atomic_bool *stop;
        bool ok;
        bool written[OWN]; /* of its own pages */
        atomic_ullong rounds;
};

/* Reads everywhere, and writes where nobody else does. */
static bool load_round(struct load *load, pb_client *client, uint64_t *state) {
        uint64_t page = next_random(state) % (N_PAGES / 2 - 8), i = next_random(state) % OWN;
        uint64_t mine = N_PAGES / 2 + load->index * OWN + i;
        char *memory = get_region(client, 0).addr;

        if (pb_ensure(client, mine * TEST_PAGE, TEST_PAGE, PB_WRITE) < 0 ||
            !ensure_is_right(client, images, page * TEST_PAGE, 8 * TEST_PAGE)) {
                fprintf(stderr, "load %u: %s\n", load->index, pb_explain(client));
                return false;
        }
        /* A page that comes once more from the source shows. */
        if (load->written[i] && !is_filled(memory, mine, (char) 0xee)) {
                fprintf(stderr, "load %u: page %u is not what was written\n", load->index, (unsigned) mine);
                return false;
        }
        memset(memory + mine * TEST_PAGE, 0xee, TEST_PAGE);
        load->written[i] = true;
        return true;
}

static void *load_thread(void *arg) {
        struct load *load = arg;
        pb_client *client = child_connect(load->broker, PB_ROLE_DEVICE);
        uint64_t state = 77 + load->index;

        while (client && !atomic_load(load->stop) && load_round(load, client, &state))
                load->rounds++;
        load->ok = client && atomic_load(load->stop);
        load->rounds++; /* nobody waits for one that has failed */
        if (client)
                load->ok = child_disconnect(client) && load->ok;
        return NULL;
}

static void go_on_over_random_kills(struct test_broker *broker, unsigned n_kills) {
        struct load loads[LOADS] = {};
        pthread_t threads[LOADS];
        atomic_bool ended = false;
        uint64_t state = 5;

        for (unsigned i = 0; i < LOADS; i++) {
                loads[i] = (struct load) { .broker = broker, .index = i, .stop = &ended };
                cr_assert_eq(pthread_create(&threads[i], NULL, load_thread, &loads[i]), 0);
        }
        /* Who connects just when a broker dies is refused, as by any server. */
        for (unsigned i = 0; i < LOADS; i++)
                cr_assert(EVENTUALLY(loads[i].rounds > 0), "load %u", i);
        for (unsigned i = 0; i < n_kills; i++) {
                uint64_t rounds = loads[i % LOADS].rounds;

                /* Somebody is served by this one, then it dies at whatever moment that is. */
                cr_assert(EVENTUALLY(loads[i % LOADS].rounds > rounds));
                test_image_make_cold(&image);
                (void) usleep((useconds_t) (next_random(&state) % 3000));
                test_broker_kill_served(broker);
                test_broker_wait_next(broker);
        }
        atomic_store(&ended, true);
        for (unsigned i = 0; i < LOADS; i++) {
                (void) pthread_join(threads[i], NULL);
                cr_assert(loads[i].ok, "load %u", i);
                cr_assert_gt(loads[i].rounds, 0);
        }
        test_broker_stop(broker);
        test_image_unlink(&image);
}

TEST(loads, go_on_over_random_kills_with_io_uring) {
        struct test_broker broker;

        require_io_uring();
        make_image();
        start(&broker, TEST_MEMORY("ram0", &image), "--io=uring");
        go_on_over_random_kills(&broker, 5 * kill_count());
}

TEST(loads, go_on_over_random_kills_with_read_workers) {
        struct test_broker broker;

        make_image();
        start(&broker, TEST_MEMORY("ram0", &image), "--io=threads");
        go_on_over_random_kills(&broker, 5 * kill_count());
}

/* Each read takes 3 ms: whenever a broker dies, most of the loads wait for one. */
TEST(loads, go_on_over_random_kills_with_a_slow_server) {
        struct test_broker broker;
        struct test_nbd nbd;

        require_program("nbdkit");
        if (access(TEST_BUILD_ROOT "/sources/nbd/pagebroker-nbd", X_OK) < 0)
                cr_skip_test("built without NBD");
        make_image();
        test_nbd_prepare(&nbd);
        /* One thread a connection: nbdkit (1.32) can end by an assertion of its own if a connection breaks while several of its
         * threads answer on it. */
        TEST_NBDKIT(&nbd, "--threads=1", "--filter=delay", "file", image.path, "rdelay=3ms");
        start(&broker, test_nbd_memory("ram0", &nbd, ""), "--seccomp=on");
        go_on_over_random_kills(&broker, 2 * kill_count());
        test_nbd_stop(&nbd);
}

/* ---- reads that are certainly on their way ---- */

/* Some have been answered when it dies, some not: those it can never tell anybody of. */
static void reads_in_flight(const char *io) {
        struct test_broker broker;
        struct test_gate gate;
        struct ensure_call calls[LOADS];
        const uint64_t part = 16 * TEST_PAGE;
        uint64_t gpa = 0;
        pb_client *client;

        require_fuse();
        make_image();
        test_gate_start(&gate, &image);
        start(&broker, test_gate_memory("ram0", &gate, ""), io);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (unsigned kill = 0; kill < kill_count(); kill++) {
                test_gate_hold(&gate, gpa, LOADS * part);
                for (unsigned i = 0; i < LOADS; i++)
                        ensure_start(&calls[i], client, gpa + i * part, part, PB_READ);
                for (unsigned i = 0; i < LOADS; i++)
                        test_gate_wait_held(&gate, gpa + i * part, part, 1);
                for (unsigned i = 0; i < kill % LOADS; i++)
                        test_gate_release(&gate, gpa + i * part, part);
                test_broker_kill_served(&broker);
                /* It cannot end before the source has answered. */
                test_gate_release(&gate, gpa, LOADS * part);
                for (unsigned i = 0; i < LOADS; i++)
                        cr_assert_eq(ensure_wait(&calls[i]), 0, "%s", calls[i].reason);
                test_broker_wait_next(&broker);
                gpa += LOADS * part;
                cr_assert(content_is_right(client, images, 0, gpa));
        }
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_gate_stop(&gate);
        test_image_unlink(&image);
}

TEST(loads, wait_for_reads_of_a_dead_broker_with_io_uring) {
        require_io_uring();
        reads_in_flight("--io=uring");
}

TEST(loads, wait_for_reads_of_a_dead_broker_with_read_workers) {
        reads_in_flight("--io=threads");
}
