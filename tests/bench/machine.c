/* SPDX-License-Identifier: MIT */
/* What every benchmark needs of the machine: time, processors, an image, huge pages, a broker. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/bench/bench.h"

uint64_t bench_now_ns(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

void bench_pin(int cpu) {
        cpu_set_t set;

        CPU_ZERO(&set);
        for (int i = 0; i < CPU_SETSIZE; i++)
                if (cpu < 0 || i == cpu)
                        CPU_SET(i, &set);
        (void) sched_setaffinity(0, sizeof set, &set);
}

void bench_make_image(const char *path, uint64_t size) {
        static uint64_t block[(1 << 20) / 8];
        uint64_t x = 88172645463325252ull;
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        for (uint64_t done = 0; done < size; done += sizeof block) {
                for (size_t i = 0; i < ELEMENTS(block); i++) {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        block[i] = x;
                }
                CHECK(write(fd, block, sizeof block) == sizeof block);
        }
        (void) fsync(fd); /* or writeback would run under the measurements */
        (void) close(fd);
}

static unsigned long long count_huge_pages(void) {
        FILE *file = fopen("/proc/sys/vm/nr_hugepages", "re");
        unsigned long long n = 0;

        if (file) {
                if (fscanf(file, "%llu", &n) != 1)
                        n = 0;
                (void) fclose(file);
        }
        return n;
}

/* Somebody else's are left alone: 0 is what there was at the first call. */
void bench_set_huge_pages(uint64_t n) {
        static unsigned long long found;
        static bool known;
        FILE *file;

        if (!known)
                found = count_huge_pages();
        known = true;
        file = fopen("/proc/sys/vm/nr_hugepages", "we");
        if (file) {
                fprintf(file, "%llu\n", found + (unsigned long long) n);
                (void) fclose(file);
        }
}

uint64_t bench_count_free_huge_pages(void) {
        FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
        unsigned long long n = 0;

        if (file) {
                if (fscanf(file, "%llu", &n) != 1)
                        n = 0;
                (void) fclose(file);
        }
        return n;
}

pid_t bench_start_broker(const char *pagebrokerd, const char *path, const char *memory, int cpu) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        char text[64];
        ssize_t n;
        pid_t pid;

        snprintf(address.sun_path, sizeof address.sun_path, "%s.notify", path);
        (void) unlink(address.sun_path);
        CHECK(notify >= 0 && bind(notify, (struct sockaddr *) &address, sizeof address) == 0);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                char option[160];

                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                bench_pin(cpu);
                CHECK(setenv("NOTIFY_SOCKET", address.sun_path, 1) == 0);
                snprintf(option, sizeof option, "--socket=%s", path);
                execl(pagebrokerd, "pagebrokerd", option, memory, "--fill=off", "--quiet", (char *) NULL);
                _exit(127);
        }
        /* It says why on standard error if it does not come up. */
        CHECK(setsockopt(notify, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval) { .tv_sec = 10 }, sizeof(struct timeval)) ==
              0);
        do
                n = recv(notify, text, sizeof text, 0);
        while (n < 0 && errno == EINTR);
        CHECK(n > 0);
        (void) close(notify);
        (void) unlink(address.sun_path);
        return pid;
}
