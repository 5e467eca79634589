/* SPDX-License-Identifier: MIT */
/* What the command line said, and the table of commands. Each command is a file of its own: command-NAME.c. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ENV_SOCKET "PAGEBROKER_SOCKET"

/* Which options a command takes: bits, in the order of the table in options.c. */
enum {
        OPTION_SOCKET = 1u << 0,
        OPTION_BUS = 1u << 1,
        OPTION_MACHINE = 1u << 2,
        OPTION_JSON = 1u << 3,
        OPTION_INTERVAL = 1u << 4,
        OPTION_TIMEOUT = 1u << 5,
        OPTION_MEMORY = 1u << 6,
        OPTION_SVG = 1u << 7,
        OPTION_PNG = 1u << 8,
        OPTION_COLOR = 1u << 9,
        OPTION_LISTEN = 1u << 10,
        OPTION_FOR = 1u << 11,
        OPTION_FORCE = 1u << 12,
        OPTION_WAIT = 1u << 13,
};

enum color {
        COLOR_AUTO,
        COLOR_ALWAYS,
        COLOR_NEVER,
};

struct ctl {
        uint32_t given;      /* OPTION_*: named on the command line */
        const char *socket;  /* NULL: by the bus */
        const char *bus;     /* NULL: the system's, else the user's */
        const char *machine; /* NULL: the only one */
        const char *memory;
        const char *svg, *png, *listen;
        double interval_s, timeout_s, for_s;
        enum color color;
        bool json, force, wait;
};

struct command {
        const char *name;
        const char *arguments; /* as the help shows them */
        const char *summary;
        uint32_t options;
        unsigned args_min, args_max;
        bool takes_name; /* a last argument, beyond args_max, is the VM's name: what -m says */
        int (*run)(const struct ctl *ctl, char **args, unsigned n);
};

extern const struct command commands[];
extern const unsigned n_commands;

const struct command *command_find(const char *name);

/* Fills *ret and finds command and arguments. 0: go on with *ret_command; else *ret_status is how the program ends. */
int options_parse(int argc, char **argv, struct ctl *ret, const struct command **ret_command, char ***ret_args,
                  unsigned *ret_n, int *ret_status);

/* The name of an OPTION_* bit: "--socket". */
const char *option_name(uint32_t bit);

void help_print(void);

int command_audit(const struct ctl *ctl, char **args, unsigned n);
int command_clients(const struct ctl *ctl, char **args, unsigned n);
int command_disconnect(const struct ctl *ctl, char **args, unsigned n);
int command_fill(const struct ctl *ctl, char **args, unsigned n);
int command_heal(const struct ctl *ctl, char **args, unsigned n);
int command_list(const struct ctl *ctl, char **args, unsigned n);
int command_map(const struct ctl *ctl, char **args, unsigned n);
int command_metrics(const struct ctl *ctl, char **args, unsigned n);
int command_prefetch(const struct ctl *ctl, char **args, unsigned n);
int command_status(const struct ctl *ctl, char **args, unsigned n);
int command_stuck(const struct ctl *ctl, char **args, unsigned n);
int command_top(const struct ctl *ctl, char **args, unsigned n);
int command_wait(const struct ctl *ctl, char **args, unsigned n);
int command_watch(const struct ctl *ctl, char **args, unsigned n);
int command_workingset(const struct ctl *ctl, char **args, unsigned n);
