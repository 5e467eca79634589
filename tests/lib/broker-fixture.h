/* SPDX-License-Identifier: MIT */
/* The real pagebrokerd, started for one test. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct test_broker {
        char dir[64];     /* private to this broker: its socket, its log */
        char address[96]; /* for pb_connect() */
        char log_path[96];
        pid_t pid;         /* its supervisor's, if it has one */
        pid_t served;      /* the broker that serves */
        unsigned n_starts; /* brokers that have been ready; with a supervisor */
        int pidfd;
        int notify;        /* what it tells systemd */
        int n_descriptors; /* what it had open when it was ready */
        bool running;
        bool has_clients_at_stop; /* set by a test that keeps clients connected over the stop */
};

struct test_broker_options {
        const char *const *args; /* beside --name and --socket, ended by NULL */
        bool supervised;         /* by examples/supervisor: the next one carries on when it is killed */
        const char *const *supervisor; /* its options beside --die-together, ended by NULL; NULL: none */
        bool activated;          /* no --socket: the listening socket is ours, passed by LISTEN_FDS */
};

/* Where it finds the helpers of sources; may be changed before it is started. */
extern const char *test_broker_libexec;

/* Starts it and waits until it says READY=1. Fails the test, with its log, if it does not. */
void test_broker_start(struct test_broker *ret, const struct test_broker_options *options);

#define TEST_BROKER_START(broker, ...) \
        test_broker_start((broker),    \
                          &(struct test_broker_options) { .args = (const char *const[]) { __VA_ARGS__, NULL } })

/* One --memory option for an image: --memory=NAME,size=S,source=file:PATH plus `more` (",huge=2M" or ""). The text
 * lives until the test ends. */
struct test_image;
const char *test_memory(const char *name, const struct test_image *image, const char *more);
#define TEST_MEMORY(name, image) test_memory((name), (image), "")

/* Runs a command line that must be refused: waits for the end and returns the exit status. It must not have said
 * READY=1. The log goes to `log`. */
int test_broker_refuses(const char *const args[], char *log, size_t size);

/*
 * SIGTERM; fails the test unless it then ends with status 0, without a sanitizer's report in its log, and unless all
 * descriptors that it opened for clients were closed before (clients must have gone; see has_clients_at_stop).
 */
void test_broker_stop(struct test_broker *broker);

/* Waits until it ends by itself: its exit status. `told` gets what it has told its supervisor since READY=1. */
int test_broker_wait(struct test_broker *broker, char *told, size_t size);

/* SIGKILL for the supervised broker; then waits until the next one is ready. */
void test_broker_kill_served(struct test_broker *broker);
void test_broker_wait_next(struct test_broker *broker);

/* SIGKILL, and waits for the end. */
void test_broker_kill(struct test_broker *broker);

/* Has it ended by itself? Does not wait. */
bool test_broker_is_dead(struct test_broker *broker);

/* Waits until it has no more descriptors open than when it was ready: everybody's sessions are reaped. */
bool test_broker_is_idle(struct test_broker *broker);

/* Does the log contain `text`? The second waits for it. */
bool test_broker_logged(const struct test_broker *broker, const char *text);
bool test_broker_will_log(const struct test_broker *broker, const char *text);

/* Memory that the broker has of its own, KiB: RssAnon, without page tables. */
long test_broker_rss_kib(const struct test_broker *broker);

/* Shows the logs of brokers that have not been stopped: .fini of every TEST(). */
void test_broker_show_logs(void);
