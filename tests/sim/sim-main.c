/* SPDX-License-Identifier: MIT */
/* sim [--json] [--fill=off] [--fill-share=PERCENT] TRACE...: a table of what clients wait, by trace, source and class. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/order-background.h"
#include "common/macro.h"
#include "tests/sim/models.h"

static const char *const class_names[N_CLASSES] = { "vcpu", "device", "prefetch", "fill" };

static const char *base_name(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

static void print(bool json, bool *first, const char *trace, const struct sim_options *options,
                  struct sim_result *result) {
        for (unsigned class = 0; class < N_CLASSES; class ++) {
                uint64_t *us = result->wait_us[class];
                size_t n = result->n_waits[class];
                unsigned long long p50, p90, p99, max;

                if (n == 0)
                        continue;
                p50 = sim_quantile(us, n, 0.5);
                p90 = sim_quantile(us, n, 0.9);
                p99 = sim_quantile(us, n, 0.99);
                max = us[n - 1];
                if (json)
                        printf("%s{\"trace\":\"%s\",\"source\":\"%s\",\"class\":\"%s\",\"waits\":%zu,\"p50_us\":%llu,"
                               "\"p90_us\":%llu,"
                               "\"p99_us\":%llu,\"max_us\":%llu,\"complete_us\":%llu,\"reads\":%zu,\"around_pages\":%"
                               "llu}",
                               *first ? "[\n" : ",\n", trace, options->source->name, class_names[class], n, p50, p90,
                               p99, max, (unsigned long long) result->ended_us, result->n_reads,
                               (unsigned long long) result->around_pages);
                else
                        printf("%-20s %-6s %-9s %7zu %8llu %8llu %8llu %8llu %9.1f %7zu %8llu\n", trace,
                               options->source->name, class_names[class], n, p50, p90, p99, max,
                               (double) result->ended_us / 1000, result->n_reads,
                               (unsigned long long) result->around_pages);
                *first = false;
        }
}

static int run(const char *path, const struct sim_options *base, bool json, bool *first) {
        struct sim_trace trace;
        unsigned line;
        const char *wrong = sim_trace_read(path, &trace, &line);

        if (wrong) {
                fprintf(stderr, "sim: %s:%u: %s\n", path, line, wrong);
                return 1;
        }
        for (unsigned i = 0; i < N_SIM_SOURCES; i++) {
                struct sim_options options = *base;
                struct sim_result result;

                options.source = &sim_sources[i];
                sim_run(&trace, &options, &result);
                print(json, first, base_name(path), &options, &result);
                sim_result_done(&result);
        }
        sim_trace_done(&trace);
        return 0;
}

int main(int argc, char *argv[]) {
        static const struct option long_options[] = {
                { "json", no_argument, NULL, 'j' },
                { "fill", required_argument, NULL, 'f' },
                { "fill-share", required_argument, NULL, 's' },
                {},
        };
        struct sim_options options = SIM_OPTIONS_DEFAULT(NULL);
        bool json = false, first = true;
        int c, status = 0;

        while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0)
                if (c == 'j')
                        json = true;
                else if (c == 'f')
                        options.fill = strcmp(optarg, "off") != 0;
                else if (c == 's')
                        options.fill_share = (unsigned) min_u64((uint64_t) atoi(optarg), 100);
                else
                        return 2;
        if (optind == argc) {
                fprintf(stderr, "usage: sim [--json] [--fill=off] [--fill-share=PERCENT] TRACE...\n");
                return 2;
        }
        if (!json)
                printf("%-20s %-6s %-9s %7s %8s %8s %8s %8s %9s %7s %8s\n", "trace", "source", "class", "waits",
                       "p50 us", "p90", "p99", "max", "all, ms", "reads", "around");
        for (int i = optind; i < argc; i++)
                status |= run(argv[i], &options, json, &first);
        if (json)
                printf("%s]\n", first ? "[" : "\n");
        return status;
}
