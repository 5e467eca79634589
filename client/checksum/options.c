/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/checksum/checksum.h"

static const char help[] =
        "Usage: pagebroker-checksum [OPTION...] IMAGE\n"
        "\n"
        "Writes a file of checksums of the blocks of IMAGE, the memory of a virtual machine. pagebrokerd\n"
        "--memory=NAME,source=file:IMAGE,checksums=FILE then takes nothing from the image that does not match.\n"
        "\n"
        "  -o, --output=FILE    the file of checksums (IMAGE.checksums); replaced when it is complete\n"
        "  --block-size=SIZE    how much one checksum covers: a power of two from 4K to 256K (64K). The broker\n"
        "                       reads whole blocks\n"
        "  --check              compare the image with FILE instead of writing it, and name what differs\n"
        "  --progress           say how far it is, also when standard error is no terminal\n"
        "  -q, --quiet          never say how far it is\n"
        "  -h, --help, --version\n"
        "\n"
        "Exit status: 0; 1: trouble, or --check found a difference; 2: wrong command line.\n"
        "\n"
        "The checksums (XXH3, 128 bits) find damage, not deceit: who can change the image on purpose must not be\n"
        "able to write FILE, and can still find other bytes of the same checksum.\n";

enum {
        OPTION_BLOCK_SIZE = 256,
        OPTION_CHECK,
        OPTION_PROGRESS,
        OPTION_VERSION,
};

static const struct option long_options[] = {
        { "output", required_argument, NULL, 'o' },
        { "block-size", required_argument, NULL, OPTION_BLOCK_SIZE },
        { "check", no_argument, NULL, OPTION_CHECK },
        { "progress", no_argument, NULL, OPTION_PROGRESS },
        { "quiet", no_argument, NULL, 'q' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, OPTION_VERSION },
        {},
};

void complain(const char *format, ...) {
        va_list args;

        (void) fputs("pagebroker-checksum: ", stderr);
        va_start(args, format);
        (void) vfprintf(stderr, format, args);
        va_end(args);
        (void) fputc('\n', stderr);
}

static int parse_block_size(const char *text, uint32_t *ret) {
        char *end;
        unsigned long long size = strtoull(text, &end, 10);

        if (strcmp(end, "K") == 0)
                size *= 1024;
        else if (*end)
                size = 0;
        if (size < PB_SUMS_BLOCK_MIN || size > PB_SUMS_BLOCK_MAX || size & (size - 1)) {
                complain("--block-size=%s: a power of two from 4K to 256K", text);
                return -EINVAL;
        }
        *ret = (uint32_t) size;
        return 0;
}

int options_parse(struct options *options, int argc, char *argv[]) {
        char *name;
        int option;

        *options = (struct options) { .block_size = 64 << 10, .progress = isatty(STDERR_FILENO) };
        while ((option = getopt_long(argc, argv, "o:qh", long_options, NULL)) != -1)
                switch (option) {
                case 'o':
                        options->output = optarg;
                        break;
                case OPTION_BLOCK_SIZE:
                        if (parse_block_size(optarg, &options->block_size) < 0)
                                return -EINVAL;
                        break;
                case OPTION_CHECK:
                        options->check = true;
                        break;
                case OPTION_PROGRESS:
                        options->progress = true;
                        break;
                case 'q':
                        options->progress = false;
                        break;
                case 'h':
                        (void) fputs(help, stdout);
                        return 1;
                case OPTION_VERSION:
                        (void) puts("pagebroker-checksum " PAGEBROKER_VERSION);
                        return 1;
                default:
                        complain("see --help");
                        return -EINVAL;
                }
        if (optind + 1 != argc) {
                complain("expected one IMAGE; see --help");
                return -EINVAL;
        }
        options->image = argv[optind];
        if (options->output)
                name = strdup(options->output);
        else if (asprintf(&name, "%s.checksums", options->image) < 0)
                name = NULL;
        options->output = name;
        return name ? 0 : -ENOMEM;
}

void options_free(struct options *options) {
        free((char *) options->output);
}
