/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/sim/sim.h"

static bool class_of(const char *name, enum request_class *ret) {
        static const char *const names[] = {
                [CLASS_VCPU] = "vcpu", [CLASS_DEVICE] = "device", [CLASS_PREFETCH] = "prefetch"
        };

        for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
                if (strcmp(names[i], name) == 0) {
                        *ret = (enum request_class) i;
                        return true;
                }
        return false;
}

static const char *read_line(struct sim_trace *trace, const char *line, size_t *max) {
        unsigned long long pages, first;
        unsigned client, think, count;
        struct sim_client *clients;
        char name[32], class[16];

        if (line[0] == '#' || line[0] == '\n')
                return NULL;
        if (sscanf(line, "pages %llu", &pages) == 1) {
                trace->n_pages = pages;
                return pages ? NULL : "no pages";
        }
        if (sscanf(line, "client %31s %15s", name, class) == 2) {
                clients = reallocarray(trace->clients, trace->n_clients + 1, sizeof *clients);
                if (!clients)
                        return "out of memory";
                trace->clients = clients;
                memcpy(clients[trace->n_clients].name, name, sizeof name);
                return class_of(class, &clients[trace->n_clients++].class) ? NULL
                                                                           : "a class is vcpu, device or prefetch";
        }
        if (sscanf(line, "%u %u %llu %u", &client, &think, &first, &count) != 4)
                return "neither 'pages', nor 'client', nor 'CLIENT THINK-US FIRST-PAGE PAGES'";
        if (client >= trace->n_clients || count == 0 || first >= trace->n_pages || count > trace->n_pages - first)
                return "no such client, or no such pages";
        if (trace->n_wishes == *max) {
                struct sim_wish *wishes = reallocarray(trace->wishes, *max = *max ? 2 * *max : 256, sizeof *wishes);

                if (!wishes)
                        return "out of memory";
                trace->wishes = wishes;
        }
        trace->wishes[trace->n_wishes++] = (struct sim_wish) { client, think, first, count };
        return NULL;
}

const char *sim_trace_read(const char *path, struct sim_trace *ret, unsigned *ret_line) {
        _cleanup_fclose_ FILE *file = fopen(path, "re");
        const char *wrong = NULL;
        size_t max = 0;
        char line[256];

        *ret = (struct sim_trace) {};
        *ret_line = 0;
        if (!file)
                return "cannot be opened";
        while (!wrong && fgets(line, sizeof line, file)) {
                ++*ret_line;
                wrong = read_line(ret, line, &max);
        }
        if (!wrong && ret->n_pages == 0)
                wrong = "says nothing of its memory's pages";
        if (wrong)
                sim_trace_done(ret);
        return wrong;
}

void sim_trace_done(struct sim_trace *trace) {
        free(trace->clients);
        free(trace->wishes);
        *trace = (struct sim_trace) {};
}
