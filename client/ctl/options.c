/* SPDX-License-Identifier: MIT */
/* The command line: options, then which command they go with. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"
#include "client/ctl/text.h"

#define INTERVAL_MIN_S 0.01
#define FIRST_OPTION 256 /* beyond the letters */

/* In the order of OPTION_*. */
static const struct option option_table[] = {
        { "socket", required_argument, NULL, FIRST_OPTION + 0 },
        { "bus", required_argument, NULL, FIRST_OPTION + 1 },
        { "machine", required_argument, NULL, FIRST_OPTION + 2 },
        { "json", no_argument, NULL, FIRST_OPTION + 3 },
        { "interval", required_argument, NULL, FIRST_OPTION + 4 },
        { "timeout", required_argument, NULL, FIRST_OPTION + 5 },
        { "memory", required_argument, NULL, FIRST_OPTION + 6 },
        { "svg", required_argument, NULL, FIRST_OPTION + 7 },
        { "png", required_argument, NULL, FIRST_OPTION + 8 },
        { "color", required_argument, NULL, FIRST_OPTION + 9 },
        { "listen", required_argument, NULL, FIRST_OPTION + 10 },
        { "for", required_argument, NULL, FIRST_OPTION + 11 },
        { "force", no_argument, NULL, FIRST_OPTION + 12 },
        { "wait", no_argument, NULL, FIRST_OPTION + 13 },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        {},
};

const char *option_name(uint32_t bit) {
        static char name[32];

        (void) snprintf(name, sizeof name, "--%s", option_table[__builtin_ctz(bit)].name);
        return name;
}

static int parse_color(const char *value, enum color *ret) {
        static const char *const names[] = {
                [COLOR_AUTO] = "auto", [COLOR_ALWAYS] = "always", [COLOR_NEVER] = "never"
        };

        for (unsigned i = 0; i < ELEMENTS(names); i++)
                if (strcmp(value, names[i]) == 0) {
                        *ret = (enum color) i;
                        return 0;
                }
        return complain(-1, "--color=%s: auto, always or never", value);
}

static int parse_option(struct ctl *ctl, uint32_t bit, const char *value) {
        ctl->given |= bit;
        switch (bit) {
        case OPTION_SOCKET:
                ctl->socket = value;
                return 0;
        case OPTION_BUS:
                ctl->bus = value;
                return 0;
        case OPTION_MACHINE:
                ctl->machine = value;
                return 0;
        case OPTION_JSON:
                ctl->json = true;
                return 0;
        case OPTION_INTERVAL:
                if (!text_parse_seconds(value, INTERVAL_MIN_S, &ctl->interval_s))
                        return complain(-1, "--interval=%s: seconds, %.2f or more", value, INTERVAL_MIN_S);
                return 0;
        case OPTION_TIMEOUT:
                if (!text_parse_seconds(value, 0, &ctl->timeout_s))
                        return complain(-1, "--timeout=%s: seconds, 0 or more", value);
                return 0;
        case OPTION_FOR:
                if (!text_parse_seconds(value, 0, &ctl->for_s))
                        return complain(-1, "--for=%s: seconds, 0 or more", value);
                return 0;
        case OPTION_FORCE:
                ctl->force = true;
                return 0;
        case OPTION_WAIT:
                ctl->wait = true;
                return 0;
        case OPTION_MEMORY:
                ctl->memory = value;
                return 0;
        case OPTION_SVG:
                ctl->svg = value;
                return 0;
        case OPTION_PNG:
                ctl->png = value;
                return 0;
        case OPTION_LISTEN:
                ctl->listen = value;
                return 0;
        default:
                return parse_color(value, &ctl->color);
        }
}

/* 0: go on; 1: done; negative: complained. */
static int parse_words(int argc, char **argv, struct ctl *ctl) {
        int c, r;

        while ((c = getopt_long(argc, argv, "m:hv", option_table, NULL)) != -1)
                switch (c) {
                case 'h':
                        help_print();
                        return 1;
                case 'v':
                        (void) puts("pagebrokerctl " PAGEBROKER_VERSION);
                        return 1;
                case '?':
                        return complain(-1, "try --help");
                default:
                        r = parse_option(ctl, c == 'm' ? OPTION_MACHINE : 1u << (c - FIRST_OPTION), optarg);
                        if (r < 0)
                                return r;
                }
        return 0;
}

static int check_options(const struct ctl *ctl, const struct command *command) {
        uint32_t wrong = ctl->given & ~command->options;

        if (wrong & OPTION_SOCKET)
                return complain(-1, "%s needs a bus: without one, a broker answers status, watch, wait, fill and heal",
                                command->name);
        if (wrong)
                return complain(-1, "%s does not go with %s", option_name(wrong), command->name);
        if (ctl->given & OPTION_SOCKET && ctl->given & (OPTION_BUS | OPTION_MACHINE))
                return complain(-1, "--socket names a broker by itself: no --bus and no --machine with it");
        return 0;
}

static int check_arguments(struct ctl *ctl, const struct command *command, char **args, unsigned *n) {
        if (*n > command->args_max && command->takes_name && *n == command->args_max + 1) {
                if (ctl->given & (OPTION_MACHINE | OPTION_SOCKET))
                        return complain(-1, "'%s': another broker is named already", args[*n - 1]);
                ctl->machine = args[--*n];
                ctl->given |= OPTION_MACHINE;
        }
        if (*n < command->args_min)
                return complain(-1, "%s %s: something is missing", command->name, command->arguments);
        if (*n > command->args_max)
                return complain(-1, "'%s': one word too many; try --help", args[command->args_max]);
        return 0;
}

/* $PAGEBROKER_SOCKET is for programs that have no other way: what names a bus goes first. */
static void choose_transport(struct ctl *ctl, const struct command *command) {
        const char *socket = getenv(ENV_SOCKET);

        if (!ctl->socket && socket && *socket && command->options & OPTION_SOCKET &&
            !(ctl->given & (OPTION_BUS | OPTION_MACHINE)))
                ctl->socket = socket;
}

int options_parse(int argc, char **argv, struct ctl *ret, const struct command **ret_command, char ***ret_args,
                  unsigned *ret_n, int *ret_status) {
        struct ctl ctl = { .interval_s = 1, .timeout_s = 10 };
        const struct command *command;
        unsigned n;
        int r = parse_words(argc, argv, &ctl);

        *ret_status = r > 0 ? STATUS_OK : STATUS_USAGE;
        if (r != 0)
                return -1;
        if (optind == argc)
                return complain(-1, "no command; try --help");
        command = command_find(argv[optind]);
        if (!command)
                return complain(-1, "'%s' is no command; try --help", argv[optind]);
        n = (unsigned) (argc - optind - 1);
        if (check_arguments(&ctl, command, argv + optind + 1, &n) < 0 || check_options(&ctl, command) < 0)
                return -1;
        choose_transport(&ctl, command);
        *ret = ctl;
        *ret_command = command;
        *ret_args = argv + optind + 1;
        *ret_n = n;
        return 0;
}
