/* SPDX-License-Identifier: MIT */
/* pagebroker-run: starts an unmodified program so that its shared mappings of guest memory are lazy. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/link.h"
#include "client/pagebroker.h"
#include "client/peer.h"
#include "client/preload/preload.h"
#include "client/run/arguments.h"
#include "client/run/program.h"
#include "common/cleanup.h"

/* As env(1) and others that start a program: what is below belongs to the program. */
#define EXIT_OURS 125
#define EXIT_CANNOT_RUN 126
#define EXIT_NOT_FOUND 127

/* Out of the way of what a supervisor passes to the program itself. */
#define FD_NUMBER_MIN 100

struct options {
        const char *socket;
        const char *preload;
        const char *role_name;
        const char *reconnect;
        uint32_t role;
        char **program;
};

static const char help[] =
        "Usage: pagebroker-run [--socket=PATH] [--role=ROLE] [--reconnect=SECONDS] [--] PROGRAM [ARGUMENT...]\n"
        "\n"
        "Starts PROGRAM with the memory of a virtual machine that a pagebrokerd serves. Every MAP_SHARED mapping that\n"
        "PROGRAM makes of it is lazy: a page that is not there yet is fetched when it is touched.\n"
        "\n"
        "In the arguments\n"
        "  {memory0}       stands for a path that opens the broker's first memory, {memory1} for its second, ...\n"
        "  {memory0.fd}    for the number of its descriptor\n"
        "  {memory0.size}  for its size in bytes\n"
        "\n"
        "Options\n"
        "  --socket=PATH   the broker's socket (default: $PAGEBROKER_SOCKET)\n"
        "  --role=ROLE     vmm (default) or device: what PROGRAM is to the broker\n"
        "  --reconnect=SECONDS   how long PROGRAM's next mapping waits for a broker that is being restarted (default: 30;\n"
        "                  0: not). Mappings that exist already wait for as long as it takes.\n"
        "  --preload=PATH  the preload library (default: " PRELOAD_PATH ")\n"
        "  --help, --version\n"
        "\n"
        "Example: QEMU restores a snapshot whose memory is not in its migration stream\n"
        "  pagebroker-run --socket=/run/vm1.socket -- qemu-system-x86_64 -m 4G -machine q35,memory-backend=ram \\\n"
        "    -object memory-backend-file,id=ram,size=4G,mem-path={memory0},share=on -incoming defer ...\n"
        "\n"
        "PROGRAM must be dynamically linked and not set-user-ID. Wrappers (sh -c 'exec ...', setpriv, taskset) may "
        "stand\n"
        "in front of it. See pagebroker-run(1) for what is refused and why.\n";

static int complain(int status, const char *format, ...) PRINTF_LIKE(2, 3);

static int complain(int status, const char *format, ...) {
        va_list ap;

        (void) fputs("pagebroker-run: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fputc('\n', stderr);
        return status;
}

static bool is_good_number(const char *text, unsigned long max) {
        char *end;

        return *text >= '0' && *text <= '9' && strtoul(text, &end, 10) <= max && !*end;
}

/* 0: go on; 1: done; negative: complained. */
static int parse_options(int argc, char **argv, struct options *options) {
        static const struct option long_options[] = {
                { "socket", required_argument, NULL, 's' },  { "role", required_argument, NULL, 'r' },
                { "reconnect", required_argument, NULL, 'R' },
                { "preload", required_argument, NULL, 'p' }, { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'v' },       {},
        };
        int c;

        /* "+": the first word that is no option is the program, and everything after it is the program's. */
        while ((c = getopt_long(argc, argv, "+hv", long_options, NULL)) != -1)
                switch (c) {
                case 's':
                        options->socket = optarg;
                        break;
                case 'r':
                        options->role_name = optarg;
                        break;
                case 'R':
                        options->reconnect = optarg;
                        break;
                case 'p':
                        options->preload = optarg;
                        break;
                case 'h':
                        (void) fputs(help, stdout);
                        return 1;
                case 'v':
                        (void) puts("pagebroker-run " PAGEBROKER_VERSION);
                        return 1;
                default:
                        return complain(-1, "try --help");
                }
        if (strcmp(options->role_name, "vmm") == 0)
                options->role = PB_ROLE_VMM;
        else if (strcmp(options->role_name, "device") == 0)
                options->role = PB_ROLE_DEVICE;
        else
                return complain(-1, "--role=%s: the roles that can have their mappings served are vmm and device",
                                options->role_name);
        if (!is_good_number(options->reconnect, PRELOAD_RECONNECT_MAX_S))
                return complain(-1, "--reconnect=%s: must be a number of seconds, at most %u", options->reconnect,
                                PRELOAD_RECONNECT_MAX_S);
        if (!options->socket)
                return complain(-1, "no --socket=PATH and no $" PRELOAD_ENV_SOCKET ": which broker?");
        if (optind == argc)
                return complain(-1, "no PROGRAM; try --help");
        options->program = argv + optind;
        return 0;
}

static int connect_broker(const struct options *options, struct link *ret) {
        char reason[PB_TEXT_SIZE] = "";
        struct link_options link_options = {
                .role = options->role, .flags = PB_HELLO_NO_SESSION, .name = "pagebroker-run", .ret_reason = reason
        };
        _cleanup_close_ int uffd = -1;
        int r = link_open(ret, options->socket, &link_options);

        if (r < 0 && reason[0])
                return complain(r, "the broker at %s refuses: %s", options->socket, reason);
        if (r == -ENOENT || r == -ECONNREFUSED)
                return complain(r, "no broker listens at %s", options->socket);
        if (r < 0)
                return complain(r, "connecting to the broker at %s: %s", options->socket, strerror(-r));
        /* The program will make its own. Better to hear now that it cannot. */
        uffd = peer_new_uffd(ret->uffd_device_fd);
        if (uffd < 0)
                return complain(uffd,
                                "no userfaultfd that covers system calls can be had (%s), and the broker passed no "
                                "/dev/userfaultfd",
                                strerror(-uffd));
        return 0;
}

static int find_free_number(int from) {
        _cleanup_close_ int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, from);

        if (fd < 0 && errno == EBADF) /* no standard input */
                fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, from);
        return fd < 0 ? -errno : fd;
}

/* Chooses the numbers; the preload library puts the memfds there (preload.h says why not we). */
static int name_memories(const struct link *link, struct argument_memory *memories) {
        char list[PB_MEMORIES_MAX * 16] = "", name[32], path[32];
        int from = FD_NUMBER_MIN;
        size_t used = 0;

        for (unsigned i = 0; i < link->n_memories; i++) {
                int number = find_free_number(from);

                if (number < 0)
                        return complain(number, "no descriptor for memory %u: %s", i, strerror(-number));
                memories[i] = (struct argument_memory) { .fd = number, .size = link->memories[i].size };
                from = number + 1;
                used += (size_t) snprintf(list + used, sizeof list - used, "%s%d", i > 0 ? "," : "", number);
                (void) snprintf(name, sizeof name, PRELOAD_ENV_MEMORY "%u", i);
                (void) snprintf(path, sizeof path, "/proc/self/fd/%d", number);
                if (setenv(name, path, 1) < 0)
                        return complain(-errno, "%s", strerror(errno));
        }
        return setenv(PRELOAD_ENV_MEMORY, list, 1) < 0 ? complain(-errno, "%s", strerror(errno)) : 0;
}

static int set_environment(const struct options *options) {
        /* The program may change its directory before it is looked at again. */
        _cleanup_free_ char *address = realpath(options->socket, NULL), *preload = realpath(options->preload, NULL),
                            *list = NULL;
        const char *before = getenv("LD_PRELOAD");

        if (!preload)
                return complain(-errno, "%s: %s", options->preload, strerror(errno));
        if (strpbrk(preload, ": "))
                return complain(-EINVAL, "%s: LD_PRELOAD takes no path with a colon or a space", preload);
        if (asprintf(&list, "%s%s%s", preload, before && *before ? ":" : "", before ?: "") < 0)
                return complain(-ENOMEM, "out of memory");
        if (setenv("LD_PRELOAD", list, 1) < 0 || setenv(PRELOAD_ENV_SOCKET, address ?: options->socket, 1) < 0 ||
            setenv(PRELOAD_ENV_ROLE, options->role_name, 1) < 0 ||
            setenv(PRELOAD_ENV_RECONNECT, options->reconnect, 1) < 0)
                return complain(-errno, "%s", strerror(errno));
        return 0;
}

static int expand_arguments(char **arguments, const struct argument_memory *memories, unsigned n_memories) {
        for (; *arguments; arguments++) {
                unsigned unknown;
                int r = argument_expand(*arguments, memories, n_memories, arguments, &unknown);

                if (r == -ENOENT)
                        return complain(r, "'%s' names memory %u, and the broker has %u (the first is {memory0})",
                                        *arguments, unknown, n_memories);
                if (r < 0)
                        return complain(r, "%s", strerror(-r));
        }
        return 0;
}

int main(int argc, char **argv) {
        struct options options = { .socket = getenv(PRELOAD_ENV_SOCKET), .preload = PRELOAD_PATH, .role_name = "vmm",
                                   .reconnect = "30" };
        struct argument_memory memories[PB_MEMORIES_MAX];
        _cleanup_(link_done) struct link link;
        _cleanup_free_ char *program = NULL;
        const char *why_not;
        int r;

        link_init(&link);
        r = parse_options(argc, argv, &options);
        if (r != 0)
                return r < 0 ? EXIT_OURS : EXIT_SUCCESS;
        assert(options.program);
        if (program_find(options.program[0], &program) < 0)
                return complain(EXIT_NOT_FOUND, "%s: not found in $PATH", options.program[0]);
        why_not = program_why_not(program);
        if (why_not)
                return complain(EXIT_CANNOT_RUN, "%s %s", program, why_not);
        if (connect_broker(&options, &link) < 0 || name_memories(&link, memories) < 0 ||
            expand_arguments(options.program, memories, link.n_memories) < 0 || set_environment(&options) < 0)
                return EXIT_OURS;
        (void) execv(program, options.program);
        return complain(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN, "%s: %s", program, strerror(errno));
}
