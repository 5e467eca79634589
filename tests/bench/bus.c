/* SPDX-License-Identifier: MIT */
/*
 * bus PAGEBROKERD OUTPUT.csv [ROUNDS]
 *
 * Does a call on the bus delay a fault? Faults of a linked client (one page each, in page cache, nobody touched it
 * before) are timed while another process, in turns,
 *   quiet   does nothing,
 *   other   reads everything that a second broker on the same bus shows, as fast as it answers,
 *   read    reads everything that the client's own broker shows.
 * `other` costs the machine's processors what `read` does: what `read` adds to it is what the calls themselves cost.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "common/clock.h"
#include "common/macro.h"
#include "tests/bench/bench.h"

#define IMAGE_SIZE (256ull << 20)
#define ROUNDS_DEFAULT 60u
#define FAULTS 200u /* a turn */

enum mode { QUIET, OTHER, READ, MODES };
static const char *const mode_names[] = { "quiet", "other", "read" };
static const char *const names[] = { [OTHER] = "other", [READ] = "own" };

static char dir[64];

static void make_image(const char *path) {
        static uint64_t block[(1 << 20) / 8];
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        for (uint64_t done = 0; done < IMAGE_SIZE; done += sizeof block) {
                for (size_t i = 0; i < ELEMENTS(block); i++)
                        block[i] = done + i + 1;
                CHECK(write(fd, block, sizeof block) == sizeof block);
        }
        (void) fsync(fd);
        (void) close(fd);
}

static pid_t start_daemon(void) {
        char path[96], option[128], text[16];
        int ready[2];
        FILE *file;
        pid_t pid;

        snprintf(path, sizeof path, "%s/config", dir);
        snprintf(option, sizeof option, "--config-file=%s", path);
        file = fopen(path, "we");
        CHECK(file);
        fprintf(file,
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n"
                " \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
                "<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>\n"
                "<policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>"
                "<allow receive_sender=\"*\"/></policy></busconfig>\n",
                dir);
        CHECK(fclose(file) == 0 && pipe(ready) == 0);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void) dup2(ready[1], 3);
                (void) execlp("dbus-daemon", "dbus-daemon", option, "--nofork", "--nopidfile", "--print-address=3",
                              (char *) NULL);
                _exit(127);
        }
        (void) close(ready[1]);
        CHECK(read(ready[0], text, sizeof text) > 0);
        (void) close(ready[0]);
        return pid;
}

static pid_t start_broker(const char *pagebrokerd, const char *name) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        char socket_option[128], name_option[32], memory[128], bus[128], text[64];
        pid_t pid;

        snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", dir);
        (void) unlink(address.sun_path);
        CHECK(notify >= 0 && bind(notify, (struct sockaddr *) &address, sizeof address) == 0);
        snprintf(socket_option, sizeof socket_option, "--socket=%s/%s", dir, name);
        snprintf(name_option, sizeof name_option, "--name=%s", name);
        snprintf(memory, sizeof memory, "--memory=ram,source=file:%s/image", dir);
        snprintf(bus, sizeof bus, "--bus=unix:path=%s/bus", dir);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                CHECK(setenv("NOTIFY_SOCKET", address.sun_path, 1) == 0);
                execl(pagebrokerd, "pagebrokerd", name_option, socket_option, memory, bus, "--fill=off", "--quiet",
                      (char *) NULL);
                _exit(127);
        }
        CHECK(setsockopt(notify, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval) { .tv_sec = 10 }, sizeof(struct timeval)) == 0);
        CHECK(recv(notify, text, sizeof text, 0) > 0);
        (void) close(notify);
        return pid;
}

/* ---- the reader ---- */

static sd_bus *connect_bus(void) {
        sd_bus *bus = NULL;
        char address[96];

        snprintf(address, sizeof address, "unix:path=%s/bus", dir);
        CHECK(sd_bus_new(&bus) >= 0 && sd_bus_set_address(bus, address) >= 0);
        CHECK(sd_bus_set_bus_client(bus, 1) >= 0 && sd_bus_start(bus) >= 0);
        return bus;
}

static unsigned read_all(sd_bus *bus, const char *service) {
        static const char vm[] = "/org/pagebroker1/vm", interface[] = "org.pagebroker1.VM";
        unsigned good = 0;

        good += sd_bus_call_method(bus, service, "/org/pagebroker1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects",
                                   NULL, NULL, "") >= 0;
        good += sd_bus_call_method(bus, service, vm, "org.freedesktop.DBus.Properties", "GetAll", NULL, NULL, "s", interface) >=
                0;
        good += sd_bus_call_method(bus, service, vm, interface, "GetStuck", NULL, NULL, "tu", (uint64_t) 0, 0u) >= 0;
        good += sd_bus_call_method(bus, service, vm, interface, "GetMap", NULL, NULL, "uttu", 0u, (uint64_t) 0, (uint64_t) 0,
                                   64u) >= 0;
        return good;
}

/* Does as it is told by one byte at a time; answers each with one, once it is at it. Ends with the pipe. */
static void reader(int orders, int answers) {
        sd_bus *bus = connect_bus();
        unsigned char mode = QUIET;
        char service[64];

        for (;;) {
                ssize_t n = read(orders, &mode, 1);

                if (n == 0)
                        break;
                if (n < 0 && mode != QUIET) {
                        (void) read_all(bus, service);
                        continue;
                }
                (void) fcntl(orders, F_SETFL, mode == QUIET ? 0 : O_NONBLOCK);
                if (mode != QUIET) {
                        snprintf(service, sizeof service, "org.pagebroker1.%s", names[mode]);
                        while (read_all(bus, service) < 4) /* it may not have its name yet */
                                ;
                }
                CHECK(write(answers, "", 1) == 1);
        }
        _exit(0);
}

/* ---- the faults ---- */

static int compare(const void *a, const void *b) {
        uint64_t left = *(const uint64_t *) a, right = *(const uint64_t *) b;

        return left < right ? -1 : left > right;
}

/* Of sorted nanoseconds, in microseconds. */
static double percentile(const uint64_t *values, size_t n, unsigned percent) {
        size_t index = n * percent / 100;

        return (double) values[index] / 1000;
}

static void print_figures(const char *name, uint64_t *values, size_t n) {
        double sum = 0;

        qsort(values, n, sizeof *values, compare);
        for (size_t i = 0; i < n; i++)
                sum += (double) values[i];
        printf("%-6s  %6zu  %8.1f  %8.1f  %8.1f  %8.1f  %9.1f\n", name, n, percentile(values, n, 50), sum / (double) n / 1000,
               percentile(values, n, 90), percentile(values, n, 99), (double) values[n - 1] / 1000);
}

static void turn(pb_client *client, uint64_t *next_page, uint64_t *times) {
        for (unsigned i = 0; i < FAULTS; i++) {
                uint64_t begin = clock_now_ns();

                CHECK(pb_ensure(client, *next_page * BENCH_PAGE, BENCH_PAGE, PB_READ) == 0);
                times[i] = clock_now_ns() - begin;
                *next_page += 1;
        }
}

static void tell(int orders, int answers, enum mode mode) {
        unsigned char byte = (unsigned char) mode;

        CHECK(write(orders, &byte, 1) == 1 && read(answers, &byte, 1) == 1);
}

int main(int argc, char *argv[]) {
        unsigned rounds = argc > 3 ? (unsigned) atoi(argv[3]) : ROUNDS_DEFAULT;
        const struct pb_options options = { .size = sizeof options, .role = PB_ROLE_DEVICE, .name = "bench" };
        uint64_t *times[MODES], next_page = 0;
        char path[96], command[128];
        int orders[2], answers[2];
        pb_client *client;
        pid_t pids[4];
        FILE *csv;

        if (argc < 3 || rounds < 1 || rounds > 100) {
                fprintf(stderr, "usage: bus PAGEBROKERD OUTPUT.csv [ROUNDS]    ROUNDS: 1 to 100, default %u\n", ROUNDS_DEFAULT);
                return 2;
        }
        csv = fopen(argv[2], "we");
        CHECK(csv);
        snprintf(dir, sizeof dir, "/var/tmp/pagebroker-bus-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof path, "%s/image", dir);
        make_image(path);
        pids[0] = start_daemon();
        pids[1] = start_broker(argv[1], "own");
        pids[2] = start_broker(argv[1], "other");
        CHECK(pipe(orders) == 0 && pipe(answers) == 0);
        pids[3] = fork();
        CHECK(pids[3] >= 0);
        if (pids[3] == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void) close(orders[1]);
                reader(orders[0], answers[1]);
        }
        snprintf(path, sizeof path, "%s/own", dir);
        CHECK(pb_connect(&client, path, &options) == 0);
        for (unsigned m = 0; m < MODES; m++) {
                times[m] = calloc((size_t) rounds * FAULTS, sizeof(uint64_t));
                CHECK(times[m]);
        }
        for (unsigned round = 0; round < rounds; round++)
                for (unsigned m = 0; m < MODES; m++) {
                        /* Each mode comes first, second and third equally often. */
                        enum mode mode = (enum mode)((round + m) % MODES);

                        tell(orders[1], answers[0], mode);
                        turn(client, &next_page, times[mode] + (size_t) round * FAULTS);
                        tell(orders[1], answers[0], QUIET);
                }
        fprintf(csv, "mode,round,ns\n");
        for (unsigned m = 0; m < MODES; m++)
                for (size_t i = 0; i < (size_t) rounds * FAULTS; i++)
                        fprintf(csv, "%s,%zu,%llu\n", mode_names[m], i / FAULTS, (unsigned long long) times[m][i]);
        CHECK(fclose(csv) == 0);
        printf("microseconds a fault\nmode    faults    median      mean       p90       p99        max\n");
        for (unsigned m = 0; m < MODES; m++)
                print_figures(mode_names[m], times[m], (size_t) rounds * FAULTS);
        (void) pb_disconnect(client);
        for (unsigned i = 0; i < 4; i++) {
                (void) kill(pids[3 - i], SIGKILL);
                (void) waitpid(pids[3 - i], NULL, 0);
        }
        snprintf(command, sizeof command, "rm -rf %s", dir);
        return system(command) == 0 ? 0 : 1;
}
