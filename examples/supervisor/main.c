/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/log.h"
#include "supervisor.h"

static void print_help(void) {
        puts("supervisor [OPTION...] -- pagebrokerd OPTION...\n"
             "\n"
             "Keeps a page broker alive where systemd does not: starts it, holds what must outlive it (guest\n"
             "memory, presence maps, its listening socket, userfaultfds), and starts another one at once\n"
             "when it ends, however it ends. The virtual machine and its devices notice a short pause.\n"
             "\n"
             "  --vmm=COMMAND         start this by the shell when the broker is ready; when it ends, everything\n"
             "                        ends, with its exit status\n"
             "  --watchdog=SECONDS    kill the broker when it makes no progress for so long (off)\n"
             "  --store=N             keep at most N descriptors (4096); each userfaultfd takes two\n"
             "  --die-together        if the supervisor is killed, the broker and the VMM are killed too\n"
             "  --quiet               log warnings and errors only\n"
             "  --help, --version\n"
             "\n"
             "SIGTERM and SIGINT stop everything; what was kept is then gone. READY=1 is sent to $NOTIFY_SOCKET\n"
             "each time that a broker is ready, with STATUS=broker PID, start N. Exit status: of whatever ended\n"
             "first, the VMM (128 and the signal, if one killed it) or the broker; 1 on failure, 2 for a command\n"
             "line that cannot be read, the broker's included.\n"
             "\n"
             "  supervisor --watchdog=10 --vmm='pagebroker-run --socket=/run/web1.sock -- qemu-system-x86_64 ...' -- \\\n"
             "      pagebrokerd --socket=/run/web1.sock --memory=ram,source=file:web1.img");
}

static int parse_seconds(const char *text, uint64_t *ret_us) {
        char *end;
        double seconds = strtod(text, &end);

        if (end == text || *end || !(seconds >= 0.001 && seconds <= 86400))
                return -EINVAL;
        *ret_us = (uint64_t) (seconds * (double) USEC_PER_SEC);
        return 0;
}

static int parse_count(const char *text, unsigned *ret) {
        unsigned long n;
        char *end;

        errno = 0;
        n = strtoul(text, &end, 10);
        if (end == text || *end || errno || n < 8 || n > 1u << 20)
                return -EINVAL;
        *ret = (unsigned) n;
        return 0;
}

enum { OPTION_VMM = 256, OPTION_WATCHDOG, OPTION_STORE, OPTION_DIE_TOGETHER, OPTION_VERSION };

/* 0: run; 1: printed; negative: complained. */
static int parse(struct supervisor_options *options, int argc, char *argv[]) {
        static const struct option known[] = {
                { "vmm", required_argument, NULL, OPTION_VMM },
                { "watchdog", required_argument, NULL, OPTION_WATCHDOG },
                { "store", required_argument, NULL, OPTION_STORE },
                { "die-together", no_argument, NULL, OPTION_DIE_TOGETHER },
                { "quiet", no_argument, NULL, 'q' },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, OPTION_VERSION },
                {},
        };
        int option, r = 0;

        *options = (struct supervisor_options) { .store = 4096 };
        while (r == 0 && (option = getopt_long(argc, argv, "+hq", known, NULL)) != -1)
                switch (option) {
                case OPTION_VMM:
                        options->vmm = optarg;
                        break;
                case OPTION_WATCHDOG:
                        r = parse_seconds(optarg, &options->watchdog_us);
                        break;
                case OPTION_STORE:
                        r = parse_count(optarg, &options->store);
                        break;
                case OPTION_DIE_TOGETHER:
                        options->die_together = true;
                        break;
                case 'q':
                        log_set_level(LOG_WARNING);
                        break;
                case 'h':
                        print_help();
                        return 1;
                case OPTION_VERSION:
                        puts("supervisor " PAGEBROKER_VERSION);
                        return 1;
                default:
                        return -EINVAL; /* getopt has said what is wrong */
                }
        if (r < 0)
                fprintf(stderr, "supervisor: '%s': not a number that fits here; see --help\n", optarg);
        else if (optind == argc) {
                fprintf(stderr, "supervisor: no broker: give its command line after '--'; see --help\n");
                r = -EINVAL;
        }
        options->broker = &argv[optind];
        return r;
}

/* Each broker inherits the limit; systemd's are high too. */
static void raise_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char *argv[]) {
        struct supervisor_options options;
        int r;

        log_open("supervisor", NULL);
        r = parse(&options, argc, argv);
        if (r != 0)
                return r > 0 ? EXIT_SUCCESS : 2;
        raise_descriptors();
        return supervisor_run(&options);
}
