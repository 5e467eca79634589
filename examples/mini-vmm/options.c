/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/pagebroker.h"
#include "complain.h"
#include "machine.h"

#define SHARDS_MAX 64 /* as pb_attach_vmm() */

static const char help[] =
        "mini-vmm: a small virtual machine monitor that restores its guest through Pagebroker\n"
        "\n"
        "  mini-vmm run --memory=SIZE --snapshot=DIR [--low=SIZE] [--huge=2M|1G] [--stride=N] [--seed=N]\n"
        "        Starts a guest that fills its memory with a pattern, and saves it to DIR: registers to DIR/state,\n"
        "        memory to DIR/memory.img (raw, sparse).\n"
        "    --memory=SIZE      guest memory, shown as two regions: from 0, and from 4 GiB on\n"
        "    --low=SIZE         how much of it is the first one (default: half, at most 2G)\n"
        "    --huge=2M|1G       back it by huge pages (default: 4 KiB pages)\n"
        "    --stride=N         only every Nth page gets the pattern, the others stay zeros (default: 1)\n"
        "    --seed=N           another seed, another pattern (default: 1)\n"
        "\n"
        "  mini-vmm restore --snapshot=DIR (--pagebroker=ADDRESS | --eager) [option]...\n"
        "        The guest goes on and verifies every page of its memory. Exits 1 if it finds anything else than\n"
        "        it wrote.\n"
        "    --pagebroker=ADDRESS   the socket of a pagebrokerd that serves DIR/memory.img (or fd:N): lazily\n"
        "    --reconnect=SECONDS    how long to wait for the next broker when this one has ended (default: 30; 0: not)\n"
        "    --eager                without Pagebroker: read all of DIR/memory.img before the guest runs\n"
        "    --vcpus=N              that many vCPUs verify all of memory at the same time (default: 1, at most 8)\n"
        "    --check=whole|some     look at every word of a page (default), or at four of them\n"
        "    --order=random|ascending   which page comes next (default: random)\n"
        "    --shards=N             userfaultfds per region (default: 1, at most 64)\n"
        "    --fill-after-alive     switch the broker's fill on once the guest is alive (for pagebrokerd --fill=off)\n"
        "    --plug=NAME:FILE       in the end, plug in the broker's memory NAME (plugged=off), whose source is FILE, for\n"
        "                           the guest to look at and write to, and take it out; and once more, empty\n"
        "    --json                 the result for programs\n"
        "\n"
        "  mini-vmm arguments --snapshot=DIR\n"
        "        Prints what pagebrokerd has to be told about DIR, for\n"
        "        pagebrokerd $(mini-vmm arguments --snapshot=DIR) ...\n"
        "\n"
        "SIZE takes K, M, G. Needs /dev/kvm (not for `arguments`).\n";

enum {
        OPTION_HELP = 256,
        OPTION_SNAPSHOT,
        OPTION_MEMORY,
        OPTION_LOW,
        OPTION_HUGE,
        OPTION_STRIDE,
        OPTION_SEED,
        OPTION_PAGEBROKER,
        OPTION_RECONNECT,
        OPTION_EAGER,
        OPTION_VCPUS,
        OPTION_CHECK,
        OPTION_ORDER,
        OPTION_SHARDS,
        OPTION_FILL,
        OPTION_PLUG,
        OPTION_JSON,
};

/* clang-format off: one a line */
static const struct option run_options[] = {
        { "help", no_argument, NULL, OPTION_HELP },           { "snapshot", required_argument, NULL, OPTION_SNAPSHOT },
        { "memory", required_argument, NULL, OPTION_MEMORY }, { "low", required_argument, NULL, OPTION_LOW },
        { "huge", required_argument, NULL, OPTION_HUGE },     { "stride", required_argument, NULL, OPTION_STRIDE },
        { "seed", required_argument, NULL, OPTION_SEED },     { 0 },
};

static const struct option restore_options[] = {
        { "help", no_argument, NULL, OPTION_HELP },
        { "snapshot", required_argument, NULL, OPTION_SNAPSHOT },
        { "pagebroker", required_argument, NULL, OPTION_PAGEBROKER },
        { "reconnect", required_argument, NULL, OPTION_RECONNECT },
        { "eager", no_argument, NULL, OPTION_EAGER },
        { "vcpus", required_argument, NULL, OPTION_VCPUS },
        { "check", required_argument, NULL, OPTION_CHECK },
        { "order", required_argument, NULL, OPTION_ORDER },
        { "shards", required_argument, NULL, OPTION_SHARDS },
        { "fill-after-alive", no_argument, NULL, OPTION_FILL },
        { "plug", required_argument, NULL, OPTION_PLUG },
        { "json", no_argument, NULL, OPTION_JSON },
        { 0 },
};

static const struct option arguments_options[] = {
        { "help", no_argument, NULL, OPTION_HELP },
        { "snapshot", required_argument, NULL, OPTION_SNAPSHOT },
        { 0 },
};
/* clang-format on */

static const struct {
        const char *name;
        const struct option *options;
} commands[] = {
        [COMMAND_RUN] = { "run", run_options },
        [COMMAND_RESTORE] = { "restore", restore_options },
        [COMMAND_ARGUMENTS] = { "arguments", arguments_options },
};

static int parse_size(const char *option, const char *text, uint64_t *ret) {
        static const char suffixes[] = "KMGT";
        const char *suffix;
        uint64_t value;
        char *end;

        errno = 0;
        value = strtoull(text, &end, 10);
        if (errno || end == text || text[0] < '0' || text[0] > '9')
                return complain(0, "--%s=%s: not a size", option, text);
        suffix = *end ? strchr(suffixes, *end) : NULL;
        if (suffix) {
                unsigned shift = 10 * (unsigned) (suffix - suffixes + 1);

                if (value > UINT64_MAX >> shift)
                        return complain(-ERANGE, "--%s=%s", option, text);
                value <<= shift;
                end++;
        }
        if (*end)
                return complain(0, "--%s=%s: not a size (1048576, 1024K, 1M, ...)", option, text);
        *ret = value;
        return 1;
}

static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret) {
        uint64_t value;
        char *end;

        errno = 0;
        value = strtoull(text, &end, 10);
        if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || value < min || value > max)
                return complain(0, "--%s=%s: must be a number from %" PRIu64 " to %" PRIu64, option, text, min, max);
        *ret = value;
        return 1;
}

static int parse_unsigned(const char *option, const char *text, unsigned max, unsigned *ret) {
        uint64_t value = 0;
        int r = parse_number(option, text, 1, max, &value);

        if (r > 0)
                *ret = (unsigned) value;
        return r;
}

/* One of two words. */
static int parse_choice(const char *option, const char *text, const char *yes, const char *no, bool *ret) {
        if (strcmp(text, yes) != 0 && strcmp(text, no) != 0)
                return complain(0, "--%s=%s: must be %s or %s", option, text, yes, no);
        *ret = strcmp(text, yes) == 0;
        return 1;
}

/* Returns 0 if the caller need not go on. */
static int options_take(struct options *options, const struct option *option, const char *text) {
        switch (option->val) {
        case OPTION_HELP:
                (void) fputs(help, stdout);
                return 0;
        case OPTION_SNAPSHOT:
                options->snapshot = text;
                return 1;
        case OPTION_MEMORY:
                return parse_size(option->name, text, &options->layout.size);
        case OPTION_LOW:
                return parse_size(option->name, text, &options->layout.low_size);
        case OPTION_HUGE:
                return parse_size(option->name, text, &options->layout.page_size);
        case OPTION_STRIDE:
                return parse_number(option->name, text, 1, UINT32_MAX, &options->layout.stride);
        case OPTION_SEED:
                return parse_number(option->name, text, 1, UINT32_MAX, &options->layout.seed);
        case OPTION_PAGEBROKER:
                options->pagebroker = text;
                return 1;
        case OPTION_RECONNECT:
                return parse_number(option->name, text, 0, 86400, &options->reconnect_s);
        case OPTION_EAGER:
                options->eager = true;
                return 1;
        case OPTION_VCPUS:
                return parse_unsigned(option->name, text, MACHINE_VCPUS_MAX, &options->n_vcpus);
        case OPTION_CHECK:
                return parse_choice(option->name, text, "whole", "some", &options->whole);
        case OPTION_ORDER:
                return parse_choice(option->name, text, "ascending", "random", &options->ascending);
        case OPTION_SHARDS:
                return parse_unsigned(option->name, text, SHARDS_MAX, &options->n_shards);
        case OPTION_FILL:
                options->fill_after_alive = true;
                return 1;
        case OPTION_PLUG:
                options->plug = text;
                return 1;
        case OPTION_JSON:
                options->json = true;
                return 1;
        default:
                return complain(0, "try mini-vmm --help");
        }
}

static int options_check(struct options *options) {
        if (!options->snapshot)
                return complain(0, "%s: --snapshot=DIR is missing", commands[options->command].name);
        if (options->command == COMMAND_RUN && options->layout.size == 0)
                return complain(0, "run: --memory=SIZE is missing");
        if (options->command == COMMAND_RUN)
                return layout_settle(&options->layout);
        if (options->command == COMMAND_RESTORE && options->eager == (options->pagebroker != NULL))
                return complain(0, "restore: exactly one of --pagebroker=ADDRESS and --eager is needed");
        if (options->plug && (options->eager || !strchr(options->plug, ':')))
                return complain(0, "--plug=NAME:FILE: needs --pagebroker, and both a name and a file");
        if (options->fill_after_alive && options->eager)
                return complain(0, "--fill-after-alive: needs --pagebroker");
        return 0;
}

static int options_parse_command(struct options *options, const char *name) {
        for (size_t i = 0; i < ELEMENTS(commands); i++)
                if (strcmp(name, commands[i].name) == 0) {
                        options->command = (enum command) i;
                        return 1;
                }
        return complain(0, "%s: not a command (run, restore, arguments; mini-vmm --help explains)", name);
}

int options_parse(struct options *ret, int argc, char *argv[]) {
        struct options options = {
                .layout = { .page_size = PB_PAGE_SIZE, .stride = 1, .seed = 1 },
                .reconnect_s = 30,
                .n_vcpus = 1,
                .n_shards = 1,
                .whole = true,
        };
        int index, r, value;

        if (argc < 2)
                return complain(0, "a command is missing: run, restore or arguments; mini-vmm --help explains");
        if (strcmp(argv[1], "--help") == 0)
                return options_take(&options, &run_options[0], "");
        r = options_parse_command(&options, argv[1]);
        if (r < 0)
                return r;
        opterr = 0;
        while ((value = getopt_long(argc - 1, argv + 1, "", commands[options.command].options, &index)) >= 0) {
                if (value == '?')
                        return complain(0,
                                        "%s: not an option of mini-vmm %s, or with a value that it does not take or "
                                        "without one that it needs (mini-vmm --help explains)",
                                        argv[optind], argv[1]);
                r = options_take(&options, &commands[options.command].options[index], optarg);
                if (r <= 0)
                        return r;
        }
        if (optind < argc - 1)
                return complain(0, "%s: not an option", argv[1 + optind]);
        r = options_check(&options);
        if (r < 0)
                return r;
        *ret = options;
        return 1;
}
