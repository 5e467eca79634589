/* SPDX-License-Identifier: MIT */
/* pagebrokerctl metrics: its values, its grammar by another implementation's parser, and its HTTP. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "tests/integration/ctl/support.h"

#define OPENMETRICS "application/openmetrics-text; version=1.0.0"

#define SAYS(text) cr_assert(strstr(ctl_out, (text)), "no '%s' in:\n%s", (text), ctl_out)

struct scene {
        struct test_bus bus;
        pid_t fakes[2];
};

static void begin(struct scene *scene) {
        test_bus_start(&scene->bus);
        scene->fakes[0] = fake_start(&scene->bus, "org.pagebroker1.web1", FAKE_FINE, -1);
        scene->fakes[1] = fake_start(&scene->bus, "org.pagebroker1.web2", FAKE_REFUSING, -1);
}

static void end(struct scene *scene) {
        fake_stop(scene->fakes[0]);
        fake_stop(scene->fakes[1]);
        test_bus_stop(&scene->bus);
}

TEST(metrics, every_value_has_its_machine) {
        struct scene scene;

        begin(&scene);
        CTL_ENDS(0, scene.bus.option, "metrics");
        SAYS("pagebroker_up{vm=\"web1\"} 1\npagebroker_up{vm=\"web2\"} 0\n");
        SAYS("pagebroker_build_info{vm=\"web1\",version=\"9.8.7\"} 1\n");
        SAYS("pagebroker_start_time_seconds{vm=\"web1\"} 1700000000.500000\n");
        SAYS("pagebroker_memory_pages_poisoned{vm=\"web1\",memory=\"ram0\"} 3\n");
        SAYS("# TYPE pagebroker_source_fetched_bytes counter\n# UNIT pagebroker_source_fetched_bytes bytes\n");
        SAYS("pagebroker_source_fetched_bytes_total{vm=\"web1\",memory=\"ram0\"} 3072000\n");
        SAYS("pagebroker_faults_total{vm=\"web1\",class=\"vcpu\"} 22\n");
        SAYS("pagebroker_client_held_back_total{vm=\"web1\",client=\"12\",name=\"disk\",role=\"device\",pid=\"101\"} "
             "9\n");
        SAYS("pagebroker_fill_progress_ratio{vm=\"web1\"} 0.250000\n");
        CTL_ENDS(0, scene.bus.option, "metrics", "web2");
        cr_assert(!strstr(ctl_out, "web1"), "%s", ctl_out);
        end(&scene);
}

TEST(metrics, a_broker_that_hangs_hides_no_other) {
        struct test_bus bus;
        pid_t fakes[2];

        test_bus_start(&bus);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web1", FAKE_SILENT, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1.web2", FAKE_FINE, -1);
        CTL_ENDS(0, bus.option, "metrics");
        SAYS("pagebroker_up{vm=\"web1\"} 0\npagebroker_up{vm=\"web2\"} 1\n");
        SAYS("pagebroker_faults_total{vm=\"web2\",class=\"vcpu\"} 22\n");
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

/* Each of them answers only when both have been asked. */
TEST(metrics, all_are_asked_at_once) {
        struct test_bus bus;
        pid_t fakes[2];

        test_bus_start(&bus);
        fake_meet(2);
        fakes[0] = fake_start(&bus, "org.pagebroker1.web1", FAKE_LAST, -1);
        fakes[1] = fake_start(&bus, "org.pagebroker1.web2", FAKE_LAST, -1);
        CTL_ENDS(0, bus.option, "metrics");
        SAYS("pagebroker_up{vm=\"web1\"} 1\npagebroker_up{vm=\"web2\"} 1\n");
        fake_stop(fakes[0]);
        fake_stop(fakes[1]);
        test_bus_stop(&bus);
}

/* 2 of at most 20 us, 1 of at most 60 us, 1 of at most 3 ms. */
TEST(metrics, waits_are_a_cumulative_histogram) {
        struct scene scene;

        begin(&scene);
        CTL_ENDS(0, scene.bus.option, "metrics");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.00001\"} 0\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.00002\"} 2\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.00005\"} 2\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.0001\"} 3\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.002\"} 3\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"0.005\"} 4\n");
        SAYS("pagebroker_wait_seconds_bucket{vm=\"web1\",class=\"vcpu\",le=\"+Inf\"} 4\n");
        SAYS("pagebroker_wait_seconds_sum{vm=\"web1\",class=\"vcpu\"} 0.002560000\n");
        SAYS("pagebroker_wait_seconds_count{vm=\"web1\",class=\"vcpu\"} 4\n");
        SAYS("pagebroker_wait_max_seconds{vm=\"web1\",class=\"vcpu\"} 0.002500000\n");
        end(&scene);
}

static int exec_parser(void *arg) {
        const char *const argv[] = { "python3", TEST_SOURCE_ROOT "/tests/integration/ctl/parse-metrics.py", arg, NULL };

        /* The system's first: the package is for that one. */
        (void) execv("/usr/bin/python3", (char *const *) argv);
        (void) execvp("python3", (char *const *) argv);
        return 77;
}

/* The name of client 7 has a quote, a backslash and an escape character. */
TEST(metrics, another_parser_takes_the_text) {
        struct scene scene;
        char path[96];
        FILE *file;
        int status;

        begin(&scene);
        CTL_ENDS(0, scene.bus.option, "metrics");
        (void) snprintf(path, sizeof path, "%s/metrics", scene.bus.dir);
        file = fopen(path, "we");
        cr_assert(file && fputs(ctl_out, file) >= 0 && fclose(file) == 0);
        status = test_run_as((uid_t) -1, exec_parser, path);
        cr_assert(unlink(path) == 0);
        end(&scene);
        if (status == 77)
                cr_skip_test("no Python with prometheus_client (Debian: python3-prometheus-client)");
        cr_assert_eq(status, 0, "the parser ended with %d for:\n%s", status, ctl_out);
}

/* ---- HTTP ---- */

struct server {
        pid_t pid;
        char where[128]; /* what it says that it listens on */
};

static void server_start(const struct scene *scene, const char *listen, struct server *ret) {
        char option[160];
        FILE *file;
        int fds[2];

        (void) snprintf(option, sizeof option, "--listen=%s", listen);
        cr_assert(pipe2(fds, O_CLOEXEC) == 0);
        ret->pid = ctl_start(fds[1], (const char *const[]) { scene->bus.option, option, "metrics", NULL });
        (void) close(fds[1]);
        file = fdopen(fds[0], "re");
        cr_assert(file && fgets(ret->where, sizeof ret->where, file), "it does not start");
        (void) fclose(file);
}

/* SIGTERM is its ordinary end. */
static void server_stop(struct server *server) {
        cr_assert(kill(server->pid, SIGTERM) == 0);
        cr_assert_eq(test_child_wait(server->pid), 0);
}

static int connect_path(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        cr_assert(fd >= 0 && connect(fd, (const struct sockaddr *) &address, sizeof address) == 0);
        return fd;
}

/* Into ctl_out; reads until the server closes. */
static void ask(int fd, const char *request) {
        size_t n = 0;
        ssize_t r;

        cr_assert_eq(write(fd, request, strlen(request)), (ssize_t) strlen(request));
        while ((r = read(fd, ctl_out + n, sizeof ctl_out - 1 - n)) > 0)
                n += (size_t) r;
        ctl_out[n] = 0;
        (void) close(fd);
}

TEST(metrics, a_scraper_reads_them_from_a_socket_file) {
        struct scene scene;
        struct server server;
        char path[96];

        begin(&scene);
        (void) snprintf(path, sizeof path, "%s/http", scene.bus.dir);
        server_start(&scene, path, &server);
        ask(connect_path(path),
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " OPENMETRICS ",*/*;q=0.1\r\nConnection: close\r\n\r\n");
        cr_assert_eq(strncmp(ctl_out, "HTTP/1.1 200 OK\r\n", 17), 0, "%s", ctl_out);
        SAYS("Content-Type: " OPENMETRICS "; charset=utf-8\r\n");
        SAYS("pagebroker_faults_total{vm=\"web1\",class=\"vcpu\"} 22\n");
        SAYS("\n# EOF\n");
        /* Every answer is a new look. */
        ask(connect_path(path),
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " OPENMETRICS ",*/*;q=0.1\r\nConnection: close\r\n\r\n");
        SAYS("pagebroker_faults_total{vm=\"web1\",class=\"vcpu\"} 122\n");
        server_stop(&server);
        cr_assert(access(path, F_OK) < 0, "it leaves its socket behind");
        end(&scene);
}

TEST(metrics, a_scraper_reads_them_from_a_port_of_this_machine_only) {
        struct sockaddr_in address = { .sin_family = AF_INET };
        struct scene scene;
        struct server server;
        unsigned port;
        int fd;

        begin(&scene);
        server_start(&scene, "0", &server);
        cr_assert_eq(sscanf(server.where, "listening on http://127.0.0.1:%u/metrics", &port), 1, "%s", server.where);
        address.sin_port = htons((uint16_t) port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert(fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof address) == 0);
        ask(fd, "GET /metrics HTTP/1.0\r\n\r\n");
        SAYS("pagebroker_up{vm=\"web1\"} 1\n");
        server_stop(&server);
        end(&scene);
}

TEST(metrics, who_does_not_ask_for_openmetrics_gets_the_older_format) {
        struct scene scene;
        struct server server;
        char path[96];

        begin(&scene);
        (void) snprintf(path, sizeof path, "%s/http", scene.bus.dir);
        server_start(&scene, path, &server);
        ask(connect_path(path), "GET /metrics HTTP/1.0\r\n\r\n");
        SAYS("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
        SAYS("# TYPE pagebroker_source_fetched_bytes_total counter\n# HELP pagebroker_source_fetched_bytes_total ");
        SAYS("\npagebroker_source_fetched_bytes_total{vm=\"web1\",memory=\"ram0\"} 3072000\n");
        cr_assert(!strstr(ctl_out, "# UNIT") && !strstr(ctl_out, "# EOF"), "%s", ctl_out);
        server_stop(&server);
        end(&scene);
}

TEST(metrics, other_requests_are_refused) {
        struct scene scene;
        struct server server;
        char path[96];

        begin(&scene);
        (void) snprintf(path, sizeof path, "%s/http", scene.bus.dir);
        server_start(&scene, path, &server);
        ask(connect_path(path), "GET /etc/passwd HTTP/1.0\r\n\r\n");
        cr_assert(strstr(ctl_out, " 404 "), "%s", ctl_out);
        ask(connect_path(path), "DELETE /metrics HTTP/1.0\r\n\r\n");
        cr_assert(strstr(ctl_out, " 405 "), "%s", ctl_out);
        ask(connect_path(path), "nonsense\r\n\r\n");
        cr_assert(!strstr(ctl_out, "pagebroker_"), "%s", ctl_out);
        server_stop(&server);
        end(&scene);
}

/* Somebody who connects and says nothing does not keep the scraper waiting. */
TEST(metrics, a_silent_connection_delays_nobody) {
        struct scene scene;
        struct server server;
        char path[96];
        int silent;

        begin(&scene);
        (void) snprintf(path, sizeof path, "%s/http", scene.bus.dir);
        server_start(&scene, path, &server);
        silent = connect_path(path);
        cr_assert_eq(write(silent, "GET /met", 8), 8);
        ask(connect_path(path), "GET /metrics HTTP/1.0\r\n\r\n");
        SAYS("pagebroker_up{vm=\"web1\"} 1\n");
        (void) close(silent);
        server_stop(&server);
        end(&scene);
}

TEST(metrics, a_socket_that_is_in_use_is_left_alone) {
        struct scene scene;
        struct server server;
        char path[96], option[128];

        begin(&scene);
        (void) snprintf(path, sizeof path, "%s/http", scene.bus.dir);
        (void) snprintf(option, sizeof option, "--listen=%s", path);
        server_start(&scene, path, &server);
        CTL_ENDS(1, scene.bus.option, option, "metrics");
        cr_assert(strstr(ctl_err, "Address already in use"), "%s", ctl_err);
        server_stop(&server);
        CTL_ENDS(2, "--listen=nowhere", "metrics");
        end(&scene);
}
