/* SPDX-License-Identifier: MIT */
/* What pagebrokerctl top shows. command-top.c has the loop. */
#include "client/ctl/top-screen.h"

#include <ncurses.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/decode.h"
#include "client/ctl/text.h"
#include "common/clock.h"

#define BAR_MAX 50

/* How much of a counter came in a second between the two views. */
static double rate(const struct top *top, const json_object *now, const json_object *before, const char *key) {
        uint64_t x = json_u64(now, key), y = json_u64(before, key), us = top->now.taken_at_us - top->before.taken_at_us;

        return before && us > 0 && x > y ? (double) (x - y) * 1e6 / (double) us : 0;
}

static const json_object *find_client(const struct view *view, uint64_t id) {
        for (unsigned i = 0; i < json_length(view->clients); i++) {
                const json_object *client = json_object_array_get_idx(view->clients, i);

                if (json_u64(client, "id") == id)
                        return client;
        }
        return NULL;
}

/* A line, cut at the edge of the screen; nothing below it. */
static void draw_line(attr_t attributes, const char *format, ...) PRINTF_LIKE(2, 3);

static void draw_line(attr_t attributes, const char *format, ...) {
        int y = getcury(stdscr);
        char line[512];
        va_list ap;

        if (y >= LINES - 1)
                return;
        va_start(ap, format);
        (void) vsnprintf(line, sizeof line, format, ap);
        va_end(ap);
        (void) attron(attributes);
        (void) mvaddnstr(y, 0, line, COLS);
        (void) attroff(attributes);
        (void) move(y + 1, 0);
}

static void draw_bar(const char *label, uint64_t part, uint64_t whole) {
        int width = COLS - 34 < BAR_MAX ? COLS - 34 : BAR_MAX;
        int full = whole > 0 ? (int) ((double) part / (double) whole * width) : width;
        char bar[BAR_MAX + 1] = "";

        for (int i = 0; i < width; i++)
                bar[i] = i < full ? '#' : '.';
        draw_line(A_NORMAL, "%-8s[%s] %7s of %s", label, bar, text_percent(part, whole).s, text_size(whole * 4096).s);
}

static void draw_fill(const json_object *vm) {
        uint64_t ends = json_u64(vm, "fill_ends_at"), now = (uint64_t) time(NULL) * USEC_PER_SEC,
                 limit = json_u64(vm, "fill_rate");
        struct text limit_text = text_size(limit), end_text = text_duration(ends > now ? ends - now : 0);

        draw_line(A_NORMAL, "Fill    %s%s%s%s, %s/s%s%s", json_is(vm, "fill") ? "on" : "off",
                  limit > 0 ? ", at most " : "", limit > 0 ? limit_text.s : "", limit > 0 ? "/s" : "",
                  text_size(json_u64(vm, "fill_speed")).s, ends > now ? ", all here in about " : "",
                  ends > now ? end_text.s : "");
}

static void draw_latency(const json_object *vm) {
        json_object *classes = json_get(vm, "latency");

        if (!classes)
                return;
        json_object_object_foreach(classes, name, class) if (json_u64(class, "number") > 0)
                draw_line(A_NORMAL, "%-8s" COUNTED_FORMAT ": p50 %s, p99 %s, max %s", text_safe(name).s,
                          COUNTED(json_u64(class, "number"), "wait"), text_duration(json_u64(class, "p50_ns") / 1000).s,
                          text_duration(json_u64(class, "p99_ns") / 1000).s,
                          text_duration(json_u64(class, "max_ns") / 1000).s);
}

static void draw_head(const struct top *top) {
        const json_object *vm = top->now.vm, *before = top->before.vm;

        draw_line(A_BOLD, "%s: %s    " COUNTED_FORMAT ", " COUNTED_FORMAT, text_safe(top->name).s,
                  top->trouble ?: text_safe(json_text(vm, "state")).s, COUNTED(json_u64(vm, "clients"), "client"),
                  COUNTED(json_u64(vm, "peers"), "userfaultfd"));
        draw_bar("Memory", json_u64(vm, "pages_present"), json_u64(vm, "pages_total"));
        draw_bar("Data", json_u64(vm, "pages_data_present"), json_u64(vm, "pages_data"));
        draw_line(A_NORMAL, "Pages   %" PRIu64 " in flight, %" PRIu64 " poisoned%s", json_u64(vm, "pages_in_flight"),
                  json_u64(vm, "pages_poisoned"), json_u64(vm, "sources_lost") > 0 ? "; a source is lost" : "");
        draw_line(A_NORMAL, "Faults  %.0f/s by vCPUs, %.0f/s by devices, %s/s fetched",
                  rate(top, vm, before, "faults_peer"), rate(top, vm, before, "faults_linked"),
                  text_size((uint64_t) rate(top, vm, before, "bytes_fetched")).s);
        draw_fill(vm);
        draw_latency(vm);
}

struct row {
        const json_object *client;
        double faults_per_s;
        uint64_t faults, waiting_us, id;
};

static int compare_numbers(double a, double b) {
        return a < b ? 1 : a > b ? -1 : 0;
}

static int compare_by_id(const void *a, const void *b) {
        const struct row *x = a, *y = b;

        return x->id < y->id ? -1 : x->id > y->id;
}

static int compare_by_faults(const void *a, const void *b) {
        const struct row *x = a, *y = b;
        int r = compare_numbers(x->faults_per_s, y->faults_per_s);

        if (r == 0)
                r = compare_numbers((double) x->faults, (double) y->faults);
        return r != 0 ? r : compare_by_id(a, b);
}

static int compare_by_waiting(const void *a, const void *b) {
        const struct row *x = a, *y = b;
        int r = compare_numbers((double) x->waiting_us, (double) y->waiting_us);

        return r != 0 ? r : compare_by_id(a, b);
}

static void fill_row(const struct top *top, const json_object *client, struct row *ret) {
        const json_object *before = find_client(&top->before, json_u64(client, "id"));

        *ret = (struct row) {
                .client = client,
                .id = json_u64(client, "id"),
                .faults = json_u64(client, "faults_vcpu") + json_u64(client, "faults_device"),
                .faults_per_s = rate(top, client, before, "faults_vcpu") + rate(top, client, before, "faults_device"),
                .waiting_us = json_u64(client, "waiting_us"),
        };
}

static void draw_row(const struct row *row) {
        const json_object *client = row->client;
        char wait[320] = "";

        if (json_u64(client, "waiting") > 0)
                (void) snprintf(wait, sizeof wait, "%.40s for page %" PRIu64 " of %.200s",
                                text_duration(row->waiting_us).s, json_u64(client, "waiting_page"),
                                text_safe(json_text(client, "waiting_memory")).s);
        draw_line(A_NORMAL, "%6" PRIu64 " %-16.16s %-9.9s %8" PRIu64 " %10.0f %10" PRIu64 " %6" PRIu64 "  %s", row->id,
                  text_safe(json_text(client, "name")).s, text_safe(json_text(client, "role")).s,
                  json_u64(client, "process_id"), row->faults_per_s, row->faults, json_u64(client, "waiting"), wait);
}

static void draw_clients(const struct top *top) {
        static int (*const compare[TOP_ORDERS])(const void *, const void *) = {
                [TOP_BY_FAULTS] = compare_by_faults, [TOP_BY_WAITING] = compare_by_waiting, [TOP_BY_ID] = compare_by_id
        };
        unsigned n = json_length(top->now.clients);
        _cleanup_free_ struct row *rows = calloc(n + 1, sizeof *rows);

        (void) move(getcury(stdscr) + 1, 0);
        draw_line(A_REVERSE, "%6s %-16s %-9s %8s %10s %10s %6s  %-24s", "ID", "NAME", "ROLE", "PID", "FAULTS/S",
                  "FAULTS", "WAITS", "OLDEST WAIT");
        for (unsigned i = 0; rows && i < n; i++)
                fill_row(top, json_object_array_get_idx(top->now.clients, i), &rows[i]);
        if (rows && n > 0)
                qsort(rows, n, sizeof *rows, compare[top->order]);
        for (unsigned i = 0; rows && i < n; i++)
                draw_row(&rows[i]);
}

void top_draw(const struct top *top) {
        char keys[96];

        (void) erase();
        draw_head(top);
        draw_clients(top);
        (void) snprintf(keys, sizeof keys, "q quit  f by faults  w by waiting  i by id  every %g s", top->interval_s);
        (void) mvaddnstr(LINES - 1, 0, keys, COLS - 1);
        (void) refresh();
}
