/* SPDX-License-Identifier: MIT */
#include "client/ctl/status-text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/ctl/complain.h"
#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "common/clock.h"

#define MEMORIES(n) (n), "memor", (n) == 1 ? "y" : "ies"

static double percent(uint64_t part, uint64_t whole) {
        return whole > 0 ? 100.0 * (double) part / (double) whole : 100.0;
}

static void print_fill(const json_object *vm) {
        uint64_t rate = json_u64(vm, "fill_rate"), speed = json_u64(vm, "fill_speed"),
                 ends = json_u64(vm, "fill_ends_at");
        struct timespec now;

        (void) printf("fill         %s", json_is(vm, "fill") ? "on" : "off");
        if (rate > 0)
                (void) printf(", at most %s/s", text_size(rate).s);
        if (speed > 0)
                (void) printf(", %s/s lately", text_size(speed).s);
        (void) clock_gettime(CLOCK_REALTIME, &now);
        if (ends > (uint64_t) now.tv_sec * USEC_PER_SEC)
                (void) printf(", all here in about %s", text_duration(ends - (uint64_t) now.tv_sec * USEC_PER_SEC).s);
        (void) putchar('\n');
}

static void print_latency(const json_object *vm) {
        json_object *classes = json_get(vm, "latency");

        if (!classes)
                return;
        json_object_object_foreach(classes, name, class) if (json_u64(class, "number") > 0)(void)
                printf("%-12s " COUNTED_FORMAT ": half within %s, 99 %% within %s, longest %s\n", text_safe(name).s,
                       COUNTED(json_u64(class, "number"), "wait"), text_duration(json_u64(class, "p50_ns") / 1000).s,
                       text_duration(json_u64(class, "p99_ns") / 1000).s,
                       text_duration(json_u64(class, "max_ns") / 1000).s);
}

static void print_pages(const json_object *vm) {
        uint64_t data = json_u64(vm, "pages_data"), data_present = json_u64(vm, "pages_data_present"),
                 total = json_u64(vm, "pages_total"), present = json_u64(vm, "pages_present"),
                 poisoned = json_u64(vm, "pages_poisoned"), left_out = json_u64(vm, "pages_left_out"),
                 lost = json_u64(vm, "sources_lost");

        (void) printf("data here    %" PRIu64 " of %" PRIu64 " pages of 4 KiB (%s)\n", data_present, data,
                      text_percent(data_present, data).s);
        (void) printf("memory here  %" PRIu64 " of %" PRIu64 " pages (%s)%s\n", present, total,
                      text_percent(present, total).s, json_is(vm, "complete") ? ", complete" : "");
        (void) printf("in flight    " COUNTED_FORMAT "\n", COUNTED(json_u64(vm, "pages_in_flight"), "page"));
        (void) printf("poisoned     " COUNTED_FORMAT "%s\n", COUNTED(poisoned, "page"),
                      poisoned > 0 ? ": could not be read from the source" : "");
        if (left_out > 0)
                (void) printf("left out     " COUNTED_FORMAT ": the fill could not read what nobody has wanted yet\n",
                              COUNTED(left_out, "page"));
        if (lost > 0)
                (void) printf("source       changed since the start; absent pages cannot be had (" COUNTED_FORMAT ")\n",
                              MEMORIES(lost));
}

void status_print(const json_object *vm) {
        if (json_get(vm, "name"))
                (void) printf("vm           %s, %s, served by process %" PRIu64 " (pagebrokerd %s)\n",
                              text_safe(json_text(vm, "name")).s, text_safe(json_text(vm, "state")).s,
                              json_u64(vm, "process_id"), text_safe(json_text(vm, "version")).s);
        print_pages(vm);
        (void) printf("faults       %" PRIu64 " by userfaultfd peers, %" PRIu64 " by linked clients\n",
                      json_u64(vm, "faults_peer"), json_u64(vm, "faults_linked"));
        print_latency(vm);
        (void) printf("fetched      %s\n", text_size(json_u64(vm, "bytes_fetched")).s);
        (void) printf("connected    " COUNTED_FORMAT ", " COUNTED_FORMAT "\n",
                      COUNTED(json_u64(vm, "clients"), "client"), COUNTED(json_u64(vm, "peers"), "userfaultfd peer"));
        print_fill(vm);
}

void status_print_line(const json_object *vm) {
        uint64_t poisoned = json_u64(vm, "pages_poisoned"), left_out = json_u64(vm, "pages_left_out");

        (void) printf("%5.1f %% of the data, %5.1f %% of the memory, " COUNTED_FORMAT " by peers, %" PRIu64
                      " by linked clients, ",
                      percent(json_u64(vm, "pages_data_present"), json_u64(vm, "pages_data")),
                      percent(json_u64(vm, "pages_present"), json_u64(vm, "pages_total")),
                      COUNTED(json_u64(vm, "faults_peer"), "fault"), json_u64(vm, "faults_linked"));
        if (poisoned > 0)
                (void) printf(COUNTED_FORMAT " poisoned, ", COUNTED(poisoned, "page"));
        if (left_out > 0)
                (void) printf(COUNTED_FORMAT " left out, ", COUNTED(left_out, "page"));
        (void) printf("fill %s\n", json_is(vm, "fill") ? "on" : "off");
}

int status_complain_if_stuck(const json_object *vm) {
        uint64_t lost = json_u64(vm, "sources_lost"), poisoned = json_u64(vm, "pages_poisoned"),
                 left_out = json_u64(vm, "pages_left_out");

        if (lost > 0)
                return complain(-EIO,
                                "the source of " COUNTED_FORMAT
                                " has changed since the start: absent pages cannot be had",
                                MEMORIES(lost));
        if (poisoned + left_out > 0 && json_u64(vm, "pages_present") + poisoned + left_out == json_u64(vm, "pages_total"))
                return complain(-EIO, COUNTED_FORMAT " could not be read from the source; all else is here",
                                COUNTED(poisoned + left_out, "page"));
        return 0;
}
