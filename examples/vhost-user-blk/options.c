/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(void) {
        puts("vhost-user-blk --socket=PATH --pagebroker=ADDRESS --file=DISK [OPTION...]\n"
             "\n"
             "A virtual disk for a VMM that speaks vhost-user. Guest memory comes from a page broker, and may\n"
             "still be arriving while the disk is in use.\n"
             "\n"
             "  --socket=PATH         listen here for the VMM\n"
             "  --pagebroker=ADDRESS  the page broker's socket (or fd:N, a connected one that was inherited)\n"
             "  --reconnect=SECONDS   how long to wait for the next broker when this one has ended (default: 30; 0: not)\n"
             "  --file=DISK           raw image or block device\n"
             "  --readonly            the guest may not write\n"
             "  --serial=ID           what the guest sees as the disk's serial number, at most 20 bytes\n"
             "  --no-uring            plain system calls instead of io_uring\n"
             "  --verbose             log every message and change of state\n"
             "  --help, --version\n"
             "\n"
             "SIGUSR1 prints a line of statistics, as does the end (SIGTERM, SIGINT). READY=1 is sent to\n"
             "$NOTIFY_SOCKET.\n"
             "\n"
             "With QEMU:\n"
             "  vhost-user-blk --socket=/run/web1-disk --pagebroker=/run/web1 --file=disk.img &\n"
             "  pagebroker-run --socket=/run/web1 -- qemu-system-x86_64 -machine q35,memory-backend=ram -m 4G \\\n"
             "    -object memory-backend-file,id=ram,size=4G,mem-path={memory0},share=on \\\n"
             "    -chardev socket,id=disk,path=/run/web1-disk -device vhost-user-blk-pci,chardev=disk ...");
}

enum {
        OPTION_SOCKET = 256,
        OPTION_PAGEBROKER,
        OPTION_RECONNECT,
        OPTION_FILE,
        OPTION_READONLY,
        OPTION_SERIAL,
        OPTION_NO_URING,
        OPTION_VERBOSE,
        OPTION_HELP,
        OPTION_VERSION,
};

static const struct option long_options[] = {
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "pagebroker", required_argument, NULL, OPTION_PAGEBROKER },
        { "reconnect", required_argument, NULL, OPTION_RECONNECT },
        { "file", required_argument, NULL, OPTION_FILE },
        { "readonly", no_argument, NULL, OPTION_READONLY },
        { "serial", required_argument, NULL, OPTION_SERIAL },
        { "no-uring", no_argument, NULL, OPTION_NO_URING },
        { "verbose", no_argument, NULL, OPTION_VERBOSE },
        { "help", no_argument, NULL, OPTION_HELP },
        { "version", no_argument, NULL, OPTION_VERSION },
        {},
};

static int parse_seconds(const char *text, unsigned *ret) {
        unsigned long seconds;
        char *end;

        seconds = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || seconds > 86400) {
                fprintf(stderr, "vhost-user-blk: --reconnect=%s: must be a number of seconds, at most 86400\n", text);
                return -EINVAL;
        }
        *ret = (unsigned) seconds;
        return 0;
}

static int options_check(const struct options *options) {
        const char *missing = !options->socket       ? "--socket=PATH (where the VMM connects)"
                              : !options->pagebroker ? "--pagebroker=ADDRESS (the page broker's socket)"
                              : !options->file       ? "--file=DISK (the image)"
                                                     : NULL;

        if (missing) {
                fprintf(stderr, "vhost-user-blk: %s is missing; --help says more\n", missing);
                return -EINVAL;
        }
        if (strlen(options->serial) > VIRTIO_BLK_ID_BYTES) {
                fprintf(stderr, "vhost-user-blk: --serial=%s: at most %d bytes\n", options->serial,
                        VIRTIO_BLK_ID_BYTES);
                return -EINVAL;
        }
        return 1;
}

int options_parse(struct options *ret, int argc, char **argv) {
        struct options options = { .serial = "", .uring = true, .reconnect_s = 30 };
        int option;

        while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0)
                switch (option) {
                case OPTION_SOCKET:
                        options.socket = optarg;
                        break;
                case OPTION_PAGEBROKER:
                        options.pagebroker = optarg;
                        break;
                case OPTION_RECONNECT:
                        if (parse_seconds(optarg, &options.reconnect_s) < 0)
                                return -EINVAL;
                        break;
                case OPTION_FILE:
                        options.file = optarg;
                        break;
                case OPTION_READONLY:
                        options.readonly = true;
                        break;
                case OPTION_SERIAL:
                        options.serial = optarg;
                        break;
                case OPTION_NO_URING:
                        options.uring = false;
                        break;
                case OPTION_VERBOSE:
                        options.verbose = true;
                        break;
                case OPTION_HELP:
                        print_help();
                        return 0;
                case OPTION_VERSION:
                        puts("vhost-user-blk " PAGEBROKER_VERSION);
                        return 0;
                default:
                        return -EINVAL; /* getopt said why */
                }
        if (optind < argc) {
                fprintf(stderr, "vhost-user-blk: %s: not an option; --help says more\n", argv[optind]);
                return -EINVAL;
        }
        *ret = options;
        return options_check(ret);
}
