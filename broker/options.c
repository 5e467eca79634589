/* SPDX-License-Identifier: MIT */
#include "broker/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/connection.h"
#include "broker/options-allow.h"
#include "broker/options-file.h"
#include "broker/options-help.h"
#include "broker/options-memory.h"
#include "broker/options-region.h"
#include "broker/options-value.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"
#include "protocol/presence.h"

/* "SECONDS" for every class, or "CLASS:SECONDS". */
static int parse_deadline(struct options *options, char *text) {
        static const char *const names[] = {
                [CLASS_VCPU] = "vcpu",
                [CLASS_DEVICE] = "device",
                [CLASS_PREFETCH] = "prefetch",
                [CLASS_FILL] = "fill",
        };
        uint64_t *deadlines = options->pager.retry.deadline_us, us;
        char *colon = strchr(text, ':');
        int r = parse_seconds("source-deadline", colon ? colon + 1 : text, &us);

        if (r < 0)
                return r;
        if (colon)
                *colon = 0;
        for (unsigned i = 0; i < N_CLASSES; i++)
                if (!colon || strcmp(names[i], text) == 0) {
                        deadlines[i] = us;
                        if (colon)
                                return 0;
                }
        return colon ? complain("--source-deadline: '%s': classes are vcpu, device, prefetch, fill", text) : 0;
}

static int parse_on_error(const char *text, enum on_error *ret) {
        static const char *const names[] = {
                [ON_ERROR_WAIT] = "wait",
                [ON_ERROR_POISON] = "poison",
                [ON_ERROR_STOP] = "stop",
        };
        unsigned choice = 0;
        int r = parse_choice("on-error", text, names, ELEMENTS(names), &choice);

        if (r == 0)
                *ret = (enum on_error) choice;
        return r;
}

static int parse_reader(const char *text, enum reader_kind *ret) {
        static const char *const names[] = {
                [READER_AUTO] = "auto",
                [READER_URING] = "uring",
                [READER_THREADS] = "threads",
        };
        unsigned choice = 0;
        int r = parse_choice("io", text, names, ELEMENTS(names), &choice);

        if (r == 0)
                *ret = (enum reader_kind) choice;
        return r;
}

/* Counted in slices of 64 pages, of which the smallest number is what one request has in flight. */
static int parse_client_bytes(const char *text, unsigned *ret_slices) {
        const uint64_t slice = SLICE_PAGES * PB_PAGE_BYTES;
        uint64_t bytes;
        int r = parse_size_of("client-bytes", NULL, text, &bytes);

        if (r < 0)
                return r;
        if (bytes < SESSION_SLICES_MIN * slice || bytes > 16ull << 30)
                return complain("--client-bytes: '%s': from 4M to 16G", text);
        *ret_slices = (unsigned) (bytes / slice);
        return 0;
}

enum {
        OPTION_NAME = 256,
        OPTION_SOCKET,
        OPTION_MEMORY,
        OPTION_REGION,
        OPTION_HUGE,
        OPTION_FILL,
        OPTION_FILL_RATE,
        OPTION_FILL_SHARE,
        OPTION_FAULT_AROUND,
        OPTION_GIGANTIC_FAULTS,
        OPTION_COLLAPSE,
        OPTION_MEMORY_HEADROOM,
        OPTION_READ_AROUND,
        OPTION_SOURCE_TIMEOUT,
        OPTION_SOURCE_RETRIES,
        OPTION_SOURCE_DEADLINE,
        OPTION_HEAL_INTERVAL,
        OPTION_ON_ERROR,
        OPTION_DISCARD_TIMEOUT,
        OPTION_RELEASE_TIMEOUT,
        OPTION_SPIN,
        OPTION_WORKING_SET_RECORD,
        OPTION_WORKING_SET_REPLAY,
        OPTION_IO,
        OPTION_ALLOW,
        OPTION_USER,
        OPTION_CLIENT_LIMIT,
        OPTION_CLIENT_REQUESTS,
        OPTION_CLIENT_BYTES,
        OPTION_CLIENT_DESCRIPTORS,
        OPTION_BUS,
        OPTION_SECCOMP,
        OPTION_CONFIG,
        OPTION_CHECK,
        OPTION_VERSION,
};

static const struct option long_options[] = {
        { "name", required_argument, NULL, OPTION_NAME },
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "memory", required_argument, NULL, OPTION_MEMORY },
        { "region", required_argument, NULL, OPTION_REGION },
        { "huge", required_argument, NULL, OPTION_HUGE },
        { "fill", required_argument, NULL, OPTION_FILL },
        { "fill-rate", required_argument, NULL, OPTION_FILL_RATE },
        { "fill-share", required_argument, NULL, OPTION_FILL_SHARE },
        { "fault-around", required_argument, NULL, OPTION_FAULT_AROUND },
        { "read-around", required_argument, NULL, OPTION_READ_AROUND },
        { "memory-headroom", required_argument, NULL, OPTION_MEMORY_HEADROOM },
        { "collapse", required_argument, NULL, OPTION_COLLAPSE },
        { "gigantic-faults", required_argument, NULL, OPTION_GIGANTIC_FAULTS },
        { "source-timeout", required_argument, NULL, OPTION_SOURCE_TIMEOUT },
        { "source-retries", required_argument, NULL, OPTION_SOURCE_RETRIES },
        { "source-deadline", required_argument, NULL, OPTION_SOURCE_DEADLINE },
        { "heal-interval", required_argument, NULL, OPTION_HEAL_INTERVAL },
        { "on-error", required_argument, NULL, OPTION_ON_ERROR },
        { "release-timeout", required_argument, NULL, OPTION_RELEASE_TIMEOUT },
        { "discard-timeout", required_argument, NULL, OPTION_DISCARD_TIMEOUT },
        { "spin", required_argument, NULL, OPTION_SPIN },
        { "working-set-record", required_argument, NULL, OPTION_WORKING_SET_RECORD },
        { "working-set-replay", required_argument, NULL, OPTION_WORKING_SET_REPLAY },
        { "io", required_argument, NULL, OPTION_IO },
        { "allow", required_argument, NULL, OPTION_ALLOW },
        { "user", required_argument, NULL, OPTION_USER },
        { "client-limit", required_argument, NULL, OPTION_CLIENT_LIMIT },
        { "client-requests", required_argument, NULL, OPTION_CLIENT_REQUESTS },
        { "client-bytes", required_argument, NULL, OPTION_CLIENT_BYTES },
        { "client-descriptors", required_argument, NULL, OPTION_CLIENT_DESCRIPTORS },
        { "bus", required_argument, NULL, OPTION_BUS },
        { "seccomp", required_argument, NULL, OPTION_SECCOMP },
        { "quiet", no_argument, NULL, 'q' },
        { "verbose", no_argument, NULL, 'v' },
        { "config", required_argument, NULL, OPTION_CONFIG },
        { "check", no_argument, NULL, OPTION_CHECK },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, OPTION_VERSION },
        {},
};

/* `text` is a copy: what is taken apart must not be the command line that ps shows. */
static int parse_bus(const char *text, char **ret) {
        if (strcmp(text, "none") != 0 && strcmp(text, "system") != 0 && strcmp(text, "session") != 0 && !strchr(text, ':'))
                return complain("--bus: '%s': none, system, session or an address such as unix:path=/run/bus", text);
        return parse_text(ret, text);
}

static int parse_option(struct options *options, int option, char *text) {
        uint64_t number;
        int r;

        switch (option) {
        case OPTION_NAME:
                return parse_name("name", text, options->name);
        case OPTION_SOCKET:
                return parse_text(&options->socket, text);
        case OPTION_MEMORY:
                return parse_memory(options, text);
        case OPTION_REGION:
                return parse_region(options, text);
        case OPTION_HUGE:
                return parse_backing("huge", text, &options->backing_size);
        case OPTION_FILL:
                return parse_switch("fill", text, &options->pager.fill);
        case OPTION_FILL_RATE:
                return parse_size_of("fill-rate", NULL, text, &options->pager.fill_rate);
        case OPTION_FILL_SHARE:
                r = parse_number("fill-share", text, 0, 100, &number);
                options->pager.fill_share = (unsigned) number;
                return r;
        case OPTION_FAULT_AROUND:
                return parse_fault_around(text, &options->fault_around);
        case OPTION_READ_AROUND:
                return parse_read_around(text, &options->pager.around);
        case OPTION_MEMORY_HEADROOM:
                return parse_size_of("memory-headroom", NULL, text, &options->memory_headroom);
        case OPTION_COLLAPSE:
                return parse_switch("collapse", text, &options->collapse);
        case OPTION_GIGANTIC_FAULTS:
                return parse_switch("gigantic-faults", text, &options->gigantic_faults);
        case OPTION_SOURCE_TIMEOUT:
                return parse_seconds("source-timeout", text, &options->pager.source_timeout_us);
        case OPTION_SOURCE_RETRIES:
                r = parse_number("source-retries", text, 0, 100, &number);
                options->pager.retry.retries = (unsigned) number;
                return r;
        case OPTION_SOURCE_DEADLINE:
                return parse_deadline(options, text);
        case OPTION_HEAL_INTERVAL:
                if (strcmp(text, "0") == 0) {
                        options->heal_interval_us = 0;
                        return 0;
                }
                return parse_seconds("heal-interval", text, &options->heal_interval_us);
        case OPTION_ON_ERROR:
                return parse_on_error(text, &options->pager.on_error);
        case OPTION_RELEASE_TIMEOUT:
                return parse_seconds("release-timeout", text, &options->release_timeout_us);
        case OPTION_DISCARD_TIMEOUT:
                return parse_seconds("discard-timeout", text, &options->pager.discard_timeout_us);
        case OPTION_SPIN:
                return parse_number("spin", text, 0, 10000, &options->pager.spin_us);
        case OPTION_WORKING_SET_RECORD:
                return parse_text(&options->working_set_record, text);
        case OPTION_WORKING_SET_REPLAY:
                return parse_text(&options->working_set_replay, text);
        case OPTION_IO:
                return parse_reader(text, &options->pager.reader);
        case OPTION_ALLOW:
                return parse_allow(options, text);
        case OPTION_USER:
                return parse_text(&options->user, text);
        case OPTION_CLIENT_LIMIT:
                r = parse_number("client-limit", text, 1, 4096, &number);
                options->client_limit = (unsigned) number;
                return r;
        case OPTION_CLIENT_REQUESTS:
                r = parse_number("client-requests", text, 1, PB_RING_SLOTS, &number);
                options->client.requests = (unsigned) number;
                return r;
        case OPTION_CLIENT_BYTES:
                return parse_client_bytes(text, &options->client.slices);
        case OPTION_CLIENT_DESCRIPTORS:
                r = parse_number("client-descriptors", text, 1, CONNECTION_PEERS_MAX, &number);
                options->client_descriptors = (unsigned) number;
                return r;
        case OPTION_BUS:
                return parse_bus(text, &options->bus);
        case OPTION_SECCOMP:
                return parse_switch("seccomp", text, &options->seccomp);
        case 'q':
                options->log_level = LOG_WARNING;
                return 0;
        case 'v':
                options->log_level = LOG_DEBUG;
                return 0;
        default:
                return complain("see --help"); /* getopt has said what is wrong */
        }
}

static void set_defaults(struct options *options) {
        *options = (struct options) {
                .name = "vm",
                .backing_size = PB_PAGE_BYTES,
                .fault_around = 64 << 10,
                .client_limit = 512,
                .memory_headroom = 8 << 20,
                .release_timeout_us = 10 * 1000000ull,
                .client = SESSION_LIMITS_DEFAULT,
                .client_descriptors = CONNECTION_PEERS_MAX,
                .heal_interval_us = 30 * USEC_PER_SEC,
                .seccomp = true,
                .log_level = LOG_INFO,
                .pager = PAGER_OPTIONS_DEFAULT,
        };
}

static int parse_copy(struct options *options, int option, const char *value) {
        _cleanup_free_ char *text = strdup(value ?: "");
        int r = text ? parse_option(options, option, text) : -ENOMEM;

        return r == -ENOMEM ? complain("out of memory") : r;
}

/* ---- the configuration file ---- */

const struct option *options_table(void) {
        return long_options;
}

/* What makes sense for one call only. Every other option may be in the file. */
static const int never_in_file[] = { OPTION_CONFIG, OPTION_CHECK, 'h', OPTION_VERSION, 0 };

static bool is_given(const int *given, int option) {
        for (; *given; given++)
                if (*given == option)
                        return true;
        return false;
}

/* A switch without an argument is on or off here. */
static int parse_line(struct options *options, const struct options_file_line *line) {
        bool on = true;
        int r;

        if (!line->has_argument) {
                r = parse_switch(line->name, line->value, &on);
                if (r < 0 || !on)
                        return r;
        }
        return parse_copy(options, line->option, line->value);
}

/* All lines but those that name one of the options `given`. */
static int parse_lines(struct options *options, const struct options_file *file, const char *path, const int *given) {
        int r = 0;

        for (unsigned i = 0; i < file->n_lines && r >= 0; i++) {
                complain_about_line(path, file->lines[i].number);
                if (!is_given(given, file->lines[i].option))
                        r = parse_line(options, &file->lines[i]);
        }
        complain_about_line(NULL, 0);
        return r;
}

/* What the command line gives is left out, lists as a whole; but every line must be right. */
static int parse_file(struct options *options, const char *path, const int *given) {
        struct options all;
        struct options_file file;
        int r = options_file_read(&file, path, long_options, never_in_file);

        if (r < 0)
                return r;
        set_defaults(&all);
        r = parse_lines(&all, &file, path, (const int[]) { 0 });
        options_done(&all);
        if (r >= 0)
                r = parse_lines(options, &file, path, given);
        options_file_done(&file);
        return r;
}

/* ---- the command line ---- */

static const char short_options[] = "hqv";

/* Which options there are, and a file among them. Stops where options_parse() will. */
static void look_ahead(int argc, char *argv[], int given[ELEMENTS(long_options) + 1], const char **ret_config) {
        unsigned n = 0;
        int option;

        *ret_config = NULL;
        opterr = 0;
        optind = 0; /* glibc: from the start */
        while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
                given[n] = 0;
                if (option == OPTION_CONFIG)
                        *ret_config = optarg;
                if (!is_given(given, option) && n < ELEMENTS(long_options))
                        given[n++] = option;
        }
        given[n] = 0;
        opterr = 1;
        optind = 0;
}

int options_parse(struct options *options, int argc, char *argv[]) {
        int given[ELEMENTS(long_options) + 1];
        const char *config;
        int option, r;

        set_defaults(options);
        look_ahead(argc, argv, given, &config);
        if (is_given(given, 'h')) {
                options_print_help();
                return OPTIONS_EXIT;
        }
        if (is_given(given, OPTION_VERSION)) {
                (void) puts("pagebrokerd " PAGEBROKER_VERSION);
                return OPTIONS_EXIT;
        }
        if (is_given(given, OPTION_CHECK))
                return OPTIONS_CHECK;
        r = config ? parse_file(options, config, given) : 0;
        while (r >= 0 && (option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1)
                if (option != OPTION_CONFIG)
                        r = parse_copy(options, option, optarg);
        if (r < 0)
                return r;
        if (optind < argc)
                return complain("unexpected argument '%s'; see --help", argv[optind]);
        if (options->n_memories == 0)
                return complain("no memory: give at least one --memory=NAME,source=file:PATH; see --help");
        return OPTIONS_RUN;
}

void options_done(struct options *options) {
        free(options->socket);
        free(options->user);
        free(options->bus);
        free(options->working_set_record);
        free(options->working_set_replay);
        for (unsigned i = 0; i < options->n_memories; i++) {
                free(options->memories[i].source);
                free(options->memories[i].checksums);
                for (unsigned n = 0; n < options->memories[i].n_layers; n++)
                        free(options->memories[i].layers[n]);
        }
}
