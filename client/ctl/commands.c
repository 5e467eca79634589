/* SPDX-License-Identifier: MIT */
/* The table of commands, and the help made of it. */
#include <stdio.h>
#include <string.h>

#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"

#define BY_BUS (OPTION_BUS | OPTION_MACHINE)
#define BY_BOTH (BY_BUS | OPTION_SOCKET)

const struct command commands[] = {
        { .name = "list",
          .arguments = "",
          .summary = "the brokers that are running",
          .options = OPTION_BUS | OPTION_JSON,
          .run = command_list },
        { .name = "status",
          .arguments = "[NAME]",
          .summary = "how much of the guest's memory is there, how fast, from where",
          .options = BY_BOTH | OPTION_JSON,
          .takes_name = true,
          .run = command_status },
        { .name = "clients",
          .arguments = "[NAME]",
          .summary = "who is connected, how often they waited, for what they wait now",
          .options = BY_BUS | OPTION_JSON,
          .takes_name = true,
          .run = command_clients },
        { .name = "top",
          .arguments = "[NAME]",
          .summary = "status and clients, live in the terminal",
          .options = BY_BUS | OPTION_INTERVAL,
          .takes_name = true,
          .run = command_top },
        { .name = "stuck",
          .arguments = "[NAME]",
          .summary = "who waits for which page, for how long, and why",
          .options = BY_BUS | OPTION_JSON,
          .takes_name = true,
          .run = command_stuck },
        { .name = "map",
          .arguments = "[NAME]",
          .summary = "a picture of the guest's memory: what is there, what is not",
          .options = BY_BUS | OPTION_JSON | OPTION_MEMORY | OPTION_SVG | OPTION_PNG | OPTION_COLOR,
          .takes_name = true,
          .run = command_map },
        { .name = "watch",
          .arguments = "[NAME]",
          .summary = "a line every second, and what happens, until all is there or the rest cannot come",
          .options = BY_BOTH | OPTION_JSON | OPTION_INTERVAL | OPTION_TIMEOUT,
          .takes_name = true,
          .run = command_watch },
        { .name = "wait",
          .arguments = "[NAME]",
          .summary = "until a broker answers",
          .options = BY_BOTH | OPTION_JSON | OPTION_TIMEOUT,
          .takes_name = true,
          .run = command_wait },
        { .name = "fill",
          .arguments = "on|off|rate SIZE",
          .summary = "the background fill: on, off, or at most SIZE a second (0: no limit)",
          .options = BY_BOTH | OPTION_JSON,
          .args_min = 1,
          .args_max = 2,
          .run = command_fill },
        { .name = "prefetch",
          .arguments = "GPA SIZE",
          .summary = "fetch this soon: guest-physical address and bytes",
          .options = BY_BUS | OPTION_JSON | OPTION_MEMORY,
          .args_min = 2,
          .args_max = 2,
          .run = command_prefetch },
        { .name = "heal",
          .arguments = "[GPA SIZE]",
          .summary = "try again what could not be read; everything, or this range",
          .options = BY_BOTH | OPTION_JSON | OPTION_MEMORY,
          .args_max = 2,
          .run = command_heal },
        { .name = "workingset",
          .arguments = "show|record|stop|replay [FILE]",
          .summary = "which pages were wanted: a file's content; record it, until Ctrl-C or workingset stop; fetch these",
          .options = BY_BUS | OPTION_JSON | OPTION_FOR | OPTION_FORCE | OPTION_WAIT,
          .args_min = 1,
          .args_max = 2,
          .run = command_workingset },
        { .name = "audit",
          .arguments = "[NAME]",
          .summary = "the broker checks its own books",
          .options = BY_BUS | OPTION_JSON,
          .takes_name = true,
          .run = command_audit },
        { .name = "disconnect",
          .arguments = "CLIENT",
          .summary = "end a client's session (its number is in clients)",
          .options = BY_BUS | OPTION_JSON,
          .args_min = 1,
          .args_max = 1,
          .run = command_disconnect },
        { .name = "metrics",
          .arguments = "[NAME]",
          .summary = "all brokers' numbers as OpenMetrics text, once or for a scraper",
          .options = BY_BUS | OPTION_LISTEN,
          .takes_name = true,
          .run = command_metrics },
};
const unsigned n_commands = ELEMENTS(commands);

static const char help_options[] =
        "\n"
        "Which broker: with one running it is that one; with several, NAME or -m names the VM.\n"
        "  -m, --machine=NAME the VM's name (pagebrokerd --name)\n"
        "  --bus=BUS          system, session or an address (default: system; if no broker is there, session)\n"
        "  --socket=PATH      a broker without a bus, by its socket (default: $" ENV_SOCKET "): status, watch,\n"
        "                     wait, fill and heal\n"
        "\n"
        "Options\n"
        "  --json             for programs: one JSON object a line (all commands but top and metrics)\n"
        "  --interval=SECONDS of watch and top (1; 0.01 or more)\n"
        "  --timeout=SECONDS  how long wait waits at most, and watch for a broker that is restarted (10; 0: ask once)\n"
        "  --memory=NAME      map, prefetch, heal: this memory by its own offsets, not the guest's regions\n"
        "  --for=SECONDS      workingset record: how long (default: until it is stopped)\n"
        "  --force            workingset replay: also what was recorded from another memory or source\n"
        "  --wait             workingset replay: until it is done\n"
        "  --svg=FILE         map: as a picture\n"
        "  --png=FILE         map: as a picture\n"
        "  --color=WHEN       map: auto, always or never\n"
        "  --listen=WHERE     metrics: serve HTTP on a socket's path or [ADDRESS:]PORT (ADDRESS: 127.0.0.1)\n"
        "  --help, --version\n"
        "\n"
        "By the bus everybody may look; what changes something is for root and the broker's own user. By the socket,\n"
        "status and watch need the role observer, fill and heal the role vmm, wait none (pagebrokerd --allow).\n"
        "\n"
        "Exit status: 0; 1 on failure; 2 for a wrong command line; 3 if there is no such broker; 4 if it does not "
        "allow\n"
        "it; 5 if audit found something.\n";

const struct command *command_find(const char *name) {
        for (unsigned i = 0; i < n_commands; i++)
                if (strcmp(commands[i].name, name) == 0)
                        return &commands[i];
        return NULL;
}

void help_print(void) {
        (void) fputs("Usage: pagebrokerctl [OPTION...] COMMAND [ARGUMENT...]\n\nCommands\n", stdout);
        for (unsigned i = 0; i < n_commands; i++) {
                int width = printf("  %s %s", commands[i].name, commands[i].arguments);

                (void) printf("%*s%s\n", width < 27 ? 27 - width : 1, "", commands[i].summary);
        }
        (void) fputs(help_options, stdout);
}
